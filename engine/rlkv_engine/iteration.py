"""One iteration of the engine: growth, admission, batch, time, copies, and what comes of it."""

from __future__ import annotations

import math

from rlkv_engine.jit import jit
from rlkv_engine.latency import note_first_token
from rlkv_engine.link import is_loading, run_links, run_links_at_once
from rlkv_engine.memory import allocate
from rlkv_engine.offers import ASKING, BLOCKED, READY, obtain
from rlkv_engine.rule import EAGER
from rlkv_engine.sessions import (
    admit_new,
    admit_queued,
    arrival_s,
    arrive,
    blocks_for,
    end_leases,
    end_turn,
    preempt,
    return_first,
    start_decode,
)
from rlkv_engine.state import (
    ACTIVE_WEIGHT,
    ARRIVED_S,
    BLOCK_SIZE,
    BUSY_S,
    CHANGES,
    CHUNK,
    CHUNKED_PREFILL,
    COMPUTED,
    COMPUTED_TOKENS,
    COST,
    COST_QUEUED,
    DECODE,
    DECODE_SESSION_S,
    DEV,
    FIRST_SESSION,
    FREE,
    GENERATED,
    GROW,
    GROWN_AT,
    HEAP,
    HELD_PAUSED,
    HOST_HI,
    HOST_LO,
    IN_IDLE,
    INPUT_TOKENS,
    ITERATION,
    ITERATION_S,
    KEEP,
    KEY,
    KV_DECODING,
    KV_TOKEN_S,
    LOG_DECODE,
    LOG_PREFILL,
    MAX_BATCHED,
    MAX_SEQS,
    NEW,
    NEW_REFUSED,
    NEXT_ARRIVAL,
    NEXT_LEASE,
    NEXT_NEW,
    NOBODY,
    NOW,
    NUM_DECODING,
    NUM_FREE_SLOTS,
    NUM_GENERATED,
    NUM_PAUSED,
    NUM_QUEUE,
    NUM_RUN,
    NUM_SESSIONS,
    NUM_SWAP_OUT,
    NUM_WRITE_THROUGH,
    ONE,
    OUT_IDLE,
    OUTPUT_TOKENS,
    OVERLAP_SWAP,
    PAUSED_FIRM,
    PENDING,
    PHASE,
    PREFILL,
    PREFILL_TOKEN_CONTEXT_S,
    PREFILL_TOKEN_S,
    QUEUE,
    QUEUED_WEIGHT,
    RECOMPUTE_S,
    RECOMPUTED_TOKENS,
    RESUME,
    RETRY_AT,
    RETURN_AT,
    RULE,
    RUN,
    SCRATCH,
    SID,
    STALL_S,
    STALLED,
    STALLED_AT,
    TARGET,
    TURN,
    VALID,
    ZERO,
    State,
    log_row,
)

#: Shortest step of the virtual clock, seconds.
MIN_STEP_S = 1e-9

# What `admit` and `iterate` say.
GO_ON, ASK, NO_SLOT, ENDED = 0, 1, 2, 3


@jit
def next_event_s(st: State) -> float:
    """Time of the next arrival, return, lease end or retry; infinite if there is none."""
    event = st.f[NEXT_LEASE]
    if st.n[NEXT_ARRIVAL] < st.n[NUM_SESSIONS]:
        event = min(event, arrival_s(st, st.n[NEXT_ARRIVAL]))
    if st.n[NUM_PAUSED] > 0:
        event = min(event, st.real[RETURN_AT, st.slot[HEAP, 0]])
    if st.n[NEW_REFUSED] == 1:
        event = min(event, st.f[RETRY_AT])
    return event


@jit
def process_events(st: State) -> None:
    """Everything that is due by now."""
    now = st.f[NOW]
    while st.n[NEXT_ARRIVAL] < st.n[NUM_SESSIONS] and arrival_s(st, st.n[NEXT_ARRIVAL]) <= now:
        arrive(st)
    while st.n[NUM_PAUSED] > 0 and st.real[RETURN_AT, st.slot[HEAP, 0]] <= now:
        return_first(st)
    if st.f[NEXT_LEASE] <= now:
        end_leases(st)
    if st.n[NEW_REFUSED] == 1 and st.f[RETRY_AT] <= now:
        st.n[NEW_REFUSED] = 0
        st.n[CHANGES] += 1


@jit
def grow(st: State) -> int:
    """One more block for each decoding session that has filled its last; GO_ON or ASK."""
    if st.n[GROWN_AT] == st.n[ITERATION]:
        return GO_ON
    while True:
        if _grow_once(st) == ASK:
            return ASK
        if st.n[PENDING] > 0 or not _all_stalled(st):
            st.n[GROWN_AT] = st.n[ITERATION]
            return GO_ON
        # Nothing can run any more: the youngest makes room, the others try again.
        preempt(st, st.slot[RUN, st.n[NUM_RUN] - 1])
        for i in range(st.n[NUM_RUN]):
            st.slot[STALLED, st.slot[RUN, i]] = 0


@jit
def _all_stalled(st: State) -> bool:
    for i in range(st.n[NUM_RUN]):
        if st.slot[STALLED, st.slot[RUN, i]] != st.n[ITERATION]:
            return False
    return st.n[NUM_RUN] > 0


@jit
def _grow_once(st: State) -> int:
    if st.n[NUM_DECODING] == 0:
        return GO_ON
    block_size = st.n[BLOCK_SIZE]
    i = 0
    while i < st.n[NUM_RUN]:
        s = st.slot[RUN, i]
        i += 1
        if (
            st.slot[PHASE, s] != DECODE
            or st.slot[COMPUTED, s] != st.slot[DEV, s] * block_size
            or st.slot[STALLED, s] == st.n[ITERATION]
        ):
            continue
        state = obtain(st, GROW, s, ONE, ZERO)
        if state == ASKING:
            return ASK
        if state == READY:
            allocate(st, ONE)
            st.slot[DEV, s] += 1
            st.slot[KEEP, s] += 1
        else:
            st.slot[STALLED, s] = st.n[ITERATION]
            st.n[STALLED_AT] = st.n[ITERATION]
    return GO_ON


@jit
def admit(st: State) -> int:
    """Queued and new sessions, by priority, until one cannot be had; GO_ON, ASK or NO_SLOT."""
    while st.n[NUM_RUN] < st.n[MAX_SEQS]:
        has_queued = st.n[NUM_QUEUE] > 0
        has_new = st.n[NEXT_NEW] < st.n[NEXT_ARRIVAL]
        if not has_queued and not has_new:
            return GO_ON
        queued_first = has_queued
        if has_queued and has_new:
            s = st.slot[QUEUE, 0]
            arrived = st.outcome[ARRIVED_S, st.n[NEXT_NEW]]
            queued_first = st.real[KEY, s] < arrived or (
                st.real[KEY, s] == arrived and st.slot[SID, s] < st.n[NEXT_NEW]
            )
        if queued_first:
            s = st.slot[QUEUE, 0]
            need = blocks_for(st, st.slot[TARGET, s]) - st.slot[DEV, s]
            state = obtain(st, RESUME, s, need, st.slot[DEV, s] - st.slot[KEEP, s])
            if state == READY:
                admit_queued(st, s, need)
        else:
            tokens = st.turns[INPUT_TOKENS, st.first_turn[st.n[FIRST_SESSION] + st.n[NEXT_NEW]]]
            need = blocks_for(st, tokens)
            state = obtain(st, NEW, NOBODY, need, ZERO)
            if state == READY:
                if st.n[NUM_FREE_SLOTS] == 0:
                    return NO_SLOT
                admit_new(st, need)
        if state == ASKING:
            return ASK
        if state == BLOCKED:
            return GO_ON
    return GO_ON


@jit
def _plan_prefill(st: State, budget: int) -> float:
    # Chunks by priority; returns sum of chunk * (computed + chunk / 2) and marks st.chunk.
    block_size = st.n[BLOCK_SIZE]
    area = 0.0
    for i in range(st.n[NUM_RUN]):
        s = st.slot[RUN, i]
        st.slot[CHUNK, s] = 0
        if st.slot[PHASE, s] != PREFILL or budget <= 0 or is_loading(st, s):
            continue
        end = st.slot[TARGET, s]
        if (
            st.slot[HOST_HI, s] > st.slot[HOST_LO, s]
            and st.slot[COMPUTED, s] < st.slot[HOST_LO, s] * block_size
        ):
            end = st.slot[HOST_LO, s] * block_size
        chunk = end - st.slot[COMPUTED, s]
        if st.n[CHUNKED_PREFILL] == 1:
            chunk = min(chunk, budget)
        st.slot[CHUNK, s] = chunk
        budget -= chunk
        area += chunk * (st.slot[COMPUTED, s] + 0.5 * chunk)
        log_row(st, LOG_PREFILL, st.slot[SID, s], chunk)
    return area


@jit
def _apply(st: State) -> None:
    # By priority. end_turn takes sessions out of the run list, so walk with care.
    i = 0
    while i < st.n[NUM_RUN]:
        s = st.slot[RUN, i]
        i += 1
        emitted = False
        if st.slot[PHASE, s] == DECODE:
            if st.slot[STALLED, s] == st.n[ITERATION]:
                continue
            st.slot[COMPUTED, s] += 1
            st.n[KV_DECODING] += 1
            st.n[COMPUTED_TOKENS] += 1
            emitted = True
        elif st.slot[CHUNK, s] > 0:
            chunk = st.slot[CHUNK, s]
            st.slot[CHUNK, s] = 0
            again = min(max(st.slot[VALID, s] - st.slot[COMPUTED, s], 0), chunk)
            st.n[COMPUTED_TOKENS] += chunk
            st.n[RECOMPUTED_TOKENS] += again
            st.f[RECOMPUTE_S] += again * (
                st.f[PREFILL_TOKEN_S] + st.f[PREFILL_TOKEN_CONTEXT_S] * st.slot[COMPUTED, s]
            )
            st.slot[COMPUTED, s] += chunk
            if st.slot[COMPUTED, s] == st.slot[TARGET, s]:
                emitted = True
                if st.slot[GENERATED, s] == 0:
                    note_first_token(st, s)
                start_decode(st, s)
        if emitted:
            st.slot[GENERATED, s] += 1
            st.n[NUM_GENERATED] += 1
            if st.slot[GENERATED, s] == st.turns[OUTPUT_TOKENS, st.slot[TURN, s]]:
                end_turn(st, s)
                i -= 1


@jit
def pass_time(st: State, dt: float) -> None:
    """The clock and every integral over time move on by ``dt`` seconds."""
    st.f[COST] += st.f[ACTIVE_WEIGHT] * dt
    st.f[COST_QUEUED] += st.f[QUEUED_WEIGHT] * dt
    st.f[HELD_PAUSED] += st.n[PAUSED_FIRM] * dt
    st.f[NOW] += dt


@jit
def iterate(st: State) -> int:
    """Sections 2.6 to 2.9: the batch runs. GO_ON, or ENDED when nothing is left to do."""
    num_stalled = 0
    kv_tokens = st.n[KV_DECODING]
    if st.n[STALLED_AT] == st.n[ITERATION]:
        for i in range(st.n[NUM_RUN]):
            s = st.slot[RUN, i]
            if st.slot[PHASE, s] == DECODE and st.slot[STALLED, s] == st.n[ITERATION]:
                num_stalled += 1
                kv_tokens -= st.slot[COMPUTED, s]
    num_decode = st.n[NUM_DECODING] - num_stalled
    area = 0.0
    prefill_tokens = 0
    if st.n[NUM_RUN] > st.n[NUM_DECODING]:
        area = _plan_prefill(st, st.n[MAX_BATCHED] - num_decode)
        for i in range(st.n[NUM_RUN]):
            if st.slot[PHASE, st.slot[RUN, i]] == PREFILL:
                prefill_tokens += st.slot[CHUNK, st.slot[RUN, i]]
    if num_decode > 0 or prefill_tokens > 0:
        dt = (
            st.f[ITERATION_S]
            + st.f[PREFILL_TOKEN_S] * prefill_tokens
            + st.f[PREFILL_TOKEN_CONTEXT_S] * area
            + st.f[DECODE_SESSION_S] * num_decode
            + st.f[KV_TOKEN_S] * kv_tokens
        )
        st.f[BUSY_S] += dt
    else:
        dt = next_event_s(st) - st.f[NOW]
        if st.n[NUM_SWAP_OUT] > 0 or _any_loading(st):
            dt = min(dt, st.f[ITERATION_S])
        if dt == math.inf:
            return ENDED
    dt = max(dt, MIN_STEP_S)
    log_row(st, LOG_DECODE, num_decode, prefill_tokens)
    if st.n[OVERLAP_SWAP] == 1:
        run_links(st, dt)
    else:
        stall = run_links_at_once(st, dt)
        st.f[STALL_S] += stall
        dt += stall
    pass_time(st, dt)
    _apply(st)
    st.n[ITERATION] += 1
    return GO_ON


@jit
def _any_loading(st: State) -> bool:
    for i in range(st.n[NUM_RUN]):
        if is_loading(st, st.slot[RUN, i]):
            return True
    return False


@jit
def can_sprint(st: State) -> bool:
    """May iterations be run in one go: only decoding, no copies, nobody to ask or to admit?

    Called right after growth and admission found nothing to do, so that whoever waits for memory
    has been turned away and waits for a change, which a pure decode run does not bring.
    """
    return (
        st.n[NUM_DECODING] > 0
        and st.n[NUM_RUN] == st.n[NUM_DECODING]
        and st.n[NUM_SWAP_OUT] == 0
        and st.n[NUM_WRITE_THROUGH] == 0
        and st.f[RULE + EAGER] == 0
        and st.log.shape[0] == 0
    )


@jit
def sprint(st: State, until_s: float) -> None:
    """Run pure decode iterations until an event, the end of a turn, or memory runs out.

    The same arithmetic, in the same order, as ``iterate``; the sessions are updated once at the
    end.
    """
    num_growing = st.slot[SCRATCH]
    block_size = st.n[BLOCK_SIZE]
    num_decode = st.n[NUM_DECODING]
    num_growing[:block_size] = 0
    most = 1 << 60
    for i in range(num_decode):
        s = st.slot[RUN, i]
        if st.slot[COMPUTED, s] == st.slot[DEV, s] * block_size:
            return  # somebody is stalled
        # Iteration k (from 0) fills position computed + k; before iteration k > 0 a session
        # needs a block when computed + k is a multiple of the block size.
        num_growing[(-st.slot[COMPUTED, s]) % block_size] += 1
        most = min(most, st.turns[OUTPUT_TOKENS, st.slot[TURN, s]] - st.slot[GENERATED, s])
    event = min(next_event_s(st), until_s)
    base = st.f[ITERATION_S] + st.f[PREFILL_TOKEN_S] * 0 + st.f[PREFILL_TOKEN_CONTEXT_S] * 0.0
    base = base + st.f[DECODE_SESSION_S] * num_decode
    kv_tokens = st.n[KV_DECODING]
    now = st.f[NOW]
    free = st.n[FREE]
    busy = 0.0
    k = 0
    # The last iteration, where a turn ends, is left to `iterate`.
    while k < most - 1 and now < event:
        if k > 0:
            grown = num_growing[k % block_size]
            if grown > free:
                break
            free -= grown
        dt = max(base + st.f[KV_TOKEN_S] * kv_tokens, MIN_STEP_S)
        now += dt
        busy += dt
        kv_tokens += num_decode
        k += 1
    if k == 0:
        return
    for i in range(num_decode):
        s = st.slot[RUN, i]
        st.slot[COMPUTED, s] += k
        st.slot[GENERATED, s] += k
        blocks = (st.slot[COMPUTED, s] + block_size - 1) // block_size
        st.slot[DEV, s] = blocks
        st.slot[KEEP, s] = blocks
    st.n[FREE] = free
    st.n[KV_DECODING] = kv_tokens
    st.n[IN_IDLE] = st.n[OUT_IDLE] = 1
    st.n[ITERATION] += k
    st.n[COMPUTED_TOKENS] += k * num_decode
    st.n[NUM_GENERATED] += k * num_decode
    st.f[NOW] = now
    st.f[BUSY_S] += busy
    st.f[COST] += st.f[ACTIVE_WEIGHT] * busy
    st.f[COST_QUEUED] += st.f[QUEUED_WEIGHT] * busy
    st.f[HELD_PAUSED] += st.n[PAUSED_FIRM] * busy
