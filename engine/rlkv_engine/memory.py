"""Who holds which blocks: device accounting, reclaiming, and room on the host (docs/scheduler.md).

Every function keeps ``free + firm + soft = pool`` on the device and
``free + held + reserved = pool`` on the host.
"""

from __future__ import annotations

from rlkv_engine.estimates import remaining_s
from rlkv_engine.fifo import join_queue, leave_queue
from rlkv_engine.jit import jit, jit_inline
from rlkv_engine.rule import ESTIMATE
from rlkv_engine.state import (
    BLOCK_SIZE,
    CALL,
    CHANGES,
    COMPUTED,
    DECISION_POINT,
    DECISION_SLOT,
    DECISION_TAKE,
    DECODE,
    DEV,
    FREE,
    HOST_FREE,
    HOST_HI,
    HOST_LO,
    HOST_RESERVED,
    HOST_VICTIMS,
    JOB,
    JOB_FLOOR,
    KEEP,
    NO_JOB,
    NOBODY,
    NUM_HOST,
    NUM_PAUSED,
    NUM_RUN,
    NUM_SWAP_OUT,
    NUM_WRITE_THROUGH,
    PAUSED,
    PAUSED_FIRM,
    PAUSED_LIST,
    PENDING,
    PHASE,
    RECLAIM_FIRST,
    RECLAIM_QUEUE,
    RECLAIMABLE,
    REUSE_DISCARDED,
    RULE,
    RUN,
    SID,
    SWAP_OUT,
    SWAP_OUT_QUEUE,
    VALID,
    WRITE_THROUGH,
    WRITE_THROUGH_QUEUE,
    State,
    before,
    host_blocks,
)


@jit
def drop_tail(st: State, s: int, new_dev: int) -> None:
    """Blocks ``[new_dev, dev)`` become free, soft ones first."""
    drop = st.slot[DEV, s] - new_dev
    if drop <= 0:
        return
    soft = st.slot[DEV, s] - st.slot[KEEP, s]
    from_soft = min(drop, soft)
    if st.slot[JOB, s] == SWAP_OUT:
        st.n[PENDING] -= from_soft
    elif soft > 0:
        st.n[RECLAIMABLE] -= from_soft
        if from_soft == soft:
            leave_queue(st, RECLAIM_QUEUE, s)
    firm = drop - from_soft
    st.slot[KEEP, s] -= firm
    if st.slot[PHASE, s] == PAUSED:
        st.n[PAUSED_FIRM] -= firm
    st.slot[DEV, s] = new_dev
    st.n[FREE] += drop
    st.slot[COMPUTED, s] = min(st.slot[COMPUTED, s], new_dev * st.n[BLOCK_SIZE])


@jit
def soften(st: State, s: int, new_keep: int) -> None:
    """Blocks ``[new_keep, keep)`` become soft: pending under a SWAP_OUT job, else reclaimable."""
    moved = st.slot[KEEP, s] - new_keep
    if moved <= 0:
        return
    if st.slot[DEV, s] == st.slot[KEEP, s] and st.slot[JOB, s] != SWAP_OUT:
        join_queue(st, RECLAIM_QUEUE, s)
    st.slot[KEEP, s] = new_keep
    if st.slot[PHASE, s] == PAUSED:
        st.n[PAUSED_FIRM] -= moved
    if st.slot[JOB, s] == SWAP_OUT:
        st.n[PENDING] += moved
        return
    st.n[RECLAIMABLE] += moved
    if st.n[REUSE_DISCARDED] == 0:
        drop_tail(st, s, new_keep)


@jit
def harden(st: State, s: int) -> None:
    """A queued session's reclaimable blocks are its own again."""
    soft = st.slot[DEV, s] - st.slot[KEEP, s]
    if soft > 0:
        leave_queue(st, RECLAIM_QUEUE, s)
    st.n[RECLAIMABLE] -= soft
    st.slot[KEEP, s] = st.slot[DEV, s]


@jit
def end_job(st: State, s: int) -> None:
    """The copy job ends, done or not: reservations are returned, pending blocks reclaimable."""
    st.n[HOST_FREE] += st.slot[HOST_RESERVED, s]
    st.slot[HOST_RESERVED, s] = 0
    if st.slot[JOB, s] == WRITE_THROUGH:
        st.n[NUM_WRITE_THROUGH] -= 1
        leave_queue(st, WRITE_THROUGH_QUEUE, s)
    if st.slot[JOB, s] != SWAP_OUT:
        st.slot[JOB, s] = NO_JOB
        return
    st.slot[JOB, s] = NO_JOB
    st.n[NUM_SWAP_OUT] -= 1
    leave_queue(st, SWAP_OUT_QUEUE, s)
    soft = st.slot[DEV, s] - st.slot[KEEP, s]
    if soft > 0:
        st.n[PENDING] -= soft
        st.n[RECLAIMABLE] += soft
        join_queue(st, RECLAIM_QUEUE, s)
        if st.n[REUSE_DISCARDED] == 0:
            drop_tail(st, s, st.slot[KEEP, s])


@jit
def drop_host(st: State, s: int) -> None:
    """The host copy of a session is dropped, a write-through with it."""
    if st.slot[JOB, s] == WRITE_THROUGH:
        end_job(st, s)
    st.n[HOST_FREE] += st.slot[HOST_HI, s] - st.slot[HOST_LO, s]
    st.slot[HOST_LO, s] = 0
    st.slot[HOST_HI, s] = 0


@jit_inline
def allocate(st: State, need: int) -> None:
    """Take ``need <= free + reclaimable`` blocks: free ones, then the oldest reclaimable ones."""
    if st.n[FREE] < need:
        _reclaim(st, need)
    st.n[FREE] -= need


@jit
def _reclaim(st: State, num_free: int) -> None:
    # Until so many blocks are free.
    while st.n[FREE] < num_free:
        s = st.n[RECLAIM_FIRST]
        soft = st.slot[DEV, s] - st.slot[KEEP, s]
        drop_tail(st, s, st.slot[DEV, s] - min(soft, num_free - st.n[FREE]))


@jit
def _host_victim(st: State, s: int, own_remaining_s: float) -> int:
    # Copies of running sessions first (their KV is on the device too), the youngest first; then
    # of sessions expected back later than s, the latest first. -1: none.
    best = NOBODY
    for i in range(st.n[NUM_RUN]):
        v = st.slot[RUN, i]
        if host_blocks(st, v) == 0:
            continue
        if (
            st.slot[PHASE, v] != DECODE
            and st.slot[COMPUTED, v] < st.slot[HOST_HI, v] * st.n[BLOCK_SIZE]
        ):
            continue
        if best < 0 or before(st, best, v):
            best = v
    if best >= 0:
        return best
    longest = own_remaining_s
    for i in range(st.n[NUM_PAUSED]):
        v = st.slot[PAUSED_LIST, i]
        if v == s or host_blocks(st, v) == 0 or st.slot[JOB, v] == SWAP_OUT:
            continue
        remaining = remaining_s(st, v, int(st.f[RULE + ESTIMATE]))
        if remaining > longest or (
            best >= 0 and remaining == longest and st.slot[SID, v] > st.slot[SID, best]
        ):
            longest = remaining
            best = v
    return best


@jit
def droppable_host_blocks(st: State, s: int, own_remaining_s: float) -> int:
    """Host blocks that dropping every host victim of ``s`` would free."""
    total = 0
    if st.n[HOST_VICTIMS] == 0:
        return total
    for i in range(st.n[NUM_RUN]):
        v = st.slot[RUN, i]
        if (
            st.slot[PHASE, v] == DECODE
            or st.slot[COMPUTED, v] >= st.slot[HOST_HI, v] * st.n[BLOCK_SIZE]
        ):
            total += host_blocks(st, v)
    for i in range(st.n[NUM_PAUSED]):
        v = st.slot[PAUSED_LIST, i]
        if (
            v != s
            and host_blocks(st, v) > 0
            and st.slot[JOB, v] != SWAP_OUT
            and remaining_s(st, v, int(st.f[RULE + ESTIMATE])) > own_remaining_s
        ):
            total += host_blocks(st, v)
    return total


@jit
def _copy_top(st: State, s: int) -> int:
    # Only full blocks are copied; reclaimable ones are given up when a swap starts.
    dev = st.slot[DEV, s] if st.slot[JOB, s] == SWAP_OUT else st.slot[KEEP, s]
    return min(dev, st.slot[VALID, s] // st.n[BLOCK_SIZE])


@jit
def swap_copies(st: State, s: int, new_keep: int) -> int:
    """Blocks that a SWAP_OUT job down to ``new_keep`` has to copy (its host interval aside)."""
    top = _copy_top(st, s)
    low, high = st.slot[HOST_LO, s], st.slot[HOST_HI, s]
    if high <= low or low > top:
        low, high = top, top
    return max(0, top - high) + max(0, low - new_keep)


@jit
def has_host_room(st: State, s: int, take: int) -> bool:
    """May ``take`` blocks of a paused session be swapped out, dropping host victims if need be?"""
    if st.n[NUM_HOST] == 0:
        return False
    needed = swap_copies(st, s, st.slot[KEEP, s] - take) - st.slot[HOST_RESERVED, s]
    room = st.n[HOST_FREE]
    if st.slot[HOST_LO, s] > _copy_top(st, s):
        room += st.slot[HOST_HI, s] - st.slot[HOST_LO, s]
    if needed <= room:
        return True
    own = remaining_s(st, s, int(st.f[RULE + ESTIMATE]))
    return needed <= room + droppable_host_blocks(st, s, own)


@jit
def can_swap(st: State, point: int, s: int, take: int) -> bool:
    """Is SWAP possible at a decision point? PRESERVE and DISCARD always are."""
    if point == CALL:
        return st.n[HOST_FREE] > 0
    return has_host_room(st, s, take)


@jit
def swap_is_legal(st: State) -> bool:
    """Is SWAP possible for the open decision?"""
    return can_swap(st, st.n[DECISION_POINT], st.n[DECISION_SLOT], st.n[DECISION_TAKE])


@jit
def swap_out(st: State, s: int, take: int) -> None:
    """Start (or extend) a SWAP_OUT job of the last ``take`` firm blocks; there must be room."""
    if st.slot[JOB, s] == WRITE_THROUGH:
        end_job(st, s)
    if st.slot[JOB, s] != SWAP_OUT:
        drop_tail(st, s, st.slot[KEEP, s])
    if st.slot[HOST_LO, s] > _copy_top(st, s):
        drop_host(st, s)
    new_keep = st.slot[KEEP, s] - take
    copies = swap_copies(st, s, new_keep)
    own = remaining_s(st, s, int(st.f[RULE + ESTIMATE]))
    while st.n[HOST_FREE] < copies - st.slot[HOST_RESERVED, s]:
        drop_host(st, _host_victim(st, s, own))
    st.n[HOST_FREE] -= copies - st.slot[HOST_RESERVED, s]
    st.slot[HOST_RESERVED, s] = copies
    if st.slot[JOB, s] != SWAP_OUT:
        st.slot[JOB, s] = SWAP_OUT
        join_queue(st, SWAP_OUT_QUEUE, s)
        st.n[NUM_SWAP_OUT] += 1
    soften(st, s, new_keep)
    release_copied(st, s)


@jit
def release_copied(st: State, s: int) -> None:
    """Free what a SWAP_OUT job has copied already, from the tail; ends the job when that is all."""
    full = st.slot[VALID, s] // st.n[BLOCK_SIZE]
    dev = st.slot[DEV, s]
    if st.slot[DEV, s] > full:
        drop_tail(st, s, max(st.slot[KEEP, s], full))
    top = min(st.slot[DEV, s], full)
    if (
        st.slot[HOST_HI, s] > st.slot[HOST_LO, s]
        and st.slot[HOST_HI, s] >= top
        and st.slot[HOST_LO, s] < top
    ):
        drop_tail(st, s, max(st.slot[KEEP, s], st.slot[HOST_LO, s]))
    if st.slot[DEV, s] < dev:
        st.n[CHANGES] += 1
    if st.slot[DEV, s] == st.slot[KEEP, s]:
        end_job(st, s)


@jit
def write_through(st: State, s: int) -> None:
    """Start a WRITE_THROUGH job of a paused session as far as free host room goes."""
    top = min(st.slot[DEV, s], st.slot[VALID, s] // st.n[BLOCK_SIZE])
    if st.slot[HOST_LO, s] > top:
        drop_host(st, s)
    low, high = st.slot[HOST_LO, s], st.slot[HOST_HI, s]
    if high <= low:
        low, high = top, top
    gap = max(0, top - high)
    room = st.n[HOST_FREE] - gap
    if room < 0:
        return
    floor = max(0, low - room)
    copies = gap + low - floor
    if copies <= 0:
        return
    st.slot[JOB, s] = WRITE_THROUGH
    st.slot[JOB_FLOOR, s] = floor
    join_queue(st, WRITE_THROUGH_QUEUE, s)
    st.n[NUM_WRITE_THROUGH] += 1
    st.slot[HOST_RESERVED, s] = copies
    st.n[HOST_FREE] -= copies
