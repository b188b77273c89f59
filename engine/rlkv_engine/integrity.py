"""``check_integrity``: do the books of a memory state add up?"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkv_engine import state as S
from rlkv_engine.errors import IntegrityError


def check_integrity(st: S.State) -> None:
    """Check every invariant of one engine (a view); raises ``IntegrityError`` with the numbers.

    free + firm + reclaimable + pending = pool; free + held + reserved = host pool; a session's
    tokens never exceed its blocks; copies belong to paused sessions; every list, counter and
    running sum agrees with the slots.
    """
    n = st.n
    block_size = int(n[S.BLOCK_SIZE])
    live = st.slot[S.PHASE] != S.EMPTY
    run, queue, paused = (
        st.slot[S.RUN][: n[S.NUM_RUN]],
        st.slot[S.QUEUE][: n[S.NUM_QUEUE]],
        st.slot[S.PAUSED_LIST][: n[S.NUM_PAUSED]],
    )

    def require(ok: Any, what: str) -> None:
        if not np.all(ok):
            raise IntegrityError(f"iteration {n[S.ITERATION]}, t={st.f[S.NOW]:.6f} s: {what}")

    def equal(name: str, counted: Any, kept: Any) -> None:
        require(counted == kept, f"{name} is {kept}, the slots add up to {counted}")

    equal(
        "run",
        sorted(np.flatnonzero((st.slot[S.PHASE] == S.PREFILL) | (st.slot[S.PHASE] == S.DECODE))),
        sorted(run),
    )
    equal("queue", sorted(np.flatnonzero(st.slot[S.PHASE] == S.QUEUED)), sorted(queue))
    equal("paused", sorted(np.flatnonzero(st.slot[S.PHASE] == S.PAUSED)), sorted(paused))
    equal("heap", sorted(st.slot[S.HEAP][: n[S.NUM_PAUSED]]), sorted(paused))
    equal("free slots", int((~live).sum()), int(n[S.NUM_FREE_SLOTS]))
    require(
        st.slot[S.WHERE][paused] == np.arange(len(paused)), "paused list and its index disagree"
    )
    for name, slots in (("run", run), ("queue", queue)):
        order = list(zip(st.real[S.KEY][slots], st.slot[S.SID][slots], strict=True))
        require(order == sorted(order), f"{name} list is out of order")

    dev, keep = st.slot[S.DEV][live], st.slot[S.KEEP][live]
    soft = np.where(live, st.slot[S.DEV] - st.slot[S.KEEP], 0)
    require((keep >= 0) & (keep <= dev), "firm blocks outside the table")
    require(st.slot[S.COMPUTED][live] <= dev * block_size, "computed tokens without blocks")
    require(st.slot[S.COMPUTED][live] >= 0, "negative tokens")
    swapping = live & (st.slot[S.JOB] == S.SWAP_OUT)
    equal("free", int(n[S.NUM_DEVICE] - dev.sum()), int(n[S.FREE]))
    equal("pending", int(soft[swapping].sum()), int(n[S.PENDING]))
    equal("reclaimable", int(soft[~swapping].sum()), int(n[S.RECLAIMABLE]))
    equal("paused_firm", int(st.slot[S.KEEP][paused].sum()), int(n[S.PAUSED_FIRM]))
    require(n[S.FREE] >= 0, "more blocks handed out than the pool has")
    require(soft[run] == 0, "a running session has soft blocks")

    held = (st.slot[S.HOST_HI] - st.slot[S.HOST_LO])[live]
    reserved = st.slot[S.HOST_RESERVED][live]
    require((held >= 0) & (reserved >= 0), "negative host blocks")
    require((st.slot[S.HOST_LO][live] >= 0), "host interval below 0")
    require(
        (held == 0)
        | (
            st.slot[S.HOST_HI][live] * block_size
            <= np.maximum(st.slot[S.VALID], st.slot[S.TARGET])[live]
        ),
        "the host holds blocks beyond the context",
    )
    equal("host_free", int(n[S.NUM_HOST] - held.sum() - reserved.sum()), int(n[S.HOST_FREE]))
    require(n[S.HOST_FREE] >= 0, "more host blocks handed out than the pool has")
    require(st.slot[S.JOB][run] == S.NO_JOB, "a running session is being copied out")
    require(st.slot[S.JOB][queue] == S.NO_JOB, "a queued session is being copied out")
    equal("swap-outs", int(swapping.sum()), int(n[S.NUM_SWAP_OUT]))
    through = live & (st.slot[S.JOB] == S.WRITE_THROUGH)
    equal("write-throughs", int(through.sum()), int(n[S.NUM_WRITE_THROUGH]))
    require(
        st.slot[S.HOST_RESERVED][live & (st.slot[S.JOB] == S.NO_JOB)] == 0,
        "reservation without a copy",
    )

    for name, queue_id, members in (
        ("reclaimable queue", S.RECLAIM_QUEUE, (soft > 0) & ~swapping),
        ("swap-out queue", S.SWAP_OUT_QUEUE, swapping),
        ("write-through queue", S.WRITE_THROUGH_QUEUE, through),
    ):
        equal(name, np.flatnonzero(members).tolist(), sorted(_queued(st, int(queue_id))))

    decoding = live & (st.slot[S.PHASE] == S.DECODE)
    equal("decoding", int(decoding.sum()), int(n[S.NUM_DECODING]))
    equal(
        "prefilling",
        run[st.slot[S.PHASE][run] == S.PREFILL].tolist(),
        st.slot[S.PREFILLING][: n[S.NUM_RUN] - n[S.NUM_DECODING]].tolist(),
    )
    require(
        st.slot[S.DUE][decoding]
        == n[S.ITERATION]
        + np.minimum(
            st.slot[S.DEV] * block_size - st.slot[S.COMPUTED],
            st.turns[S.OUTPUT_TOKENS, st.slot[S.TURN]] - st.slot[S.GENERATED],
        )[decoding],
        "a decoding session is looked at too early or too late",
    )
    equal("kv_decoding", int(st.slot[S.COMPUTED][decoding].sum()), int(n[S.KV_DECODING]))
    equal("unanswered calls", int((st.slot[S.CALLED][paused] == 0).sum()), int(n[S.NUM_CALLS]))

    arrived, new, finished = int(n[S.NEXT_ARRIVAL]), int(n[S.NEXT_NEW]), int(n[S.NUM_FINISHED])
    equal("sessions in the system", int(live.sum()), new - finished)
    require(new <= arrived <= n[S.NUM_SESSIONS], "sessions were lost or made up")
    first = n[S.FIRST_SESSION]
    waiting = float(st.sessions[S.SESSION_WEIGHT][first + new : first + arrived].sum())
    queued = waiting + float(st.real[S.WEIGHT][queue].sum())
    active = queued + float(st.real[S.WEIGHT][run].sum())
    require(abs(active - st.f[S.ACTIVE_WEIGHT]) < 1e-6, "active weight drifted")
    require(abs(queued - st.f[S.QUEUED_WEIGHT]) < 1e-6, "queued weight drifted")


def _queued(st: S.State, queue: int) -> list[int]:
    # The slots of a queue (fifo.py), first to last; a broken link ends it.
    slots: list[int] = []
    s = int(st.n[S.RECLAIM_FIRST + 2 * queue])
    while s != S.NOBODY and len(slots) < st.slot.shape[1]:
        slots.append(s)
        s = int(st.slot[S.FIFO_LINKS + 2 * queue, s])
    return slots
