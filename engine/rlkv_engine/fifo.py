"""Queues of slots, oldest first: reclaimable blocks and copy jobs wait in the order they came.

Doubly linked, so that a slot can leave from the middle. ``queue`` is one of
``state.RECLAIM_QUEUE`` (paused and queued sessions with soft blocks and no SWAP_OUT job),
``SWAP_OUT_QUEUE`` and ``WRITE_THROUGH_QUEUE`` (sessions with such a job).
"""

from __future__ import annotations

from rlkv_engine.jit import jit
from rlkv_engine.state import FIFO_LINKS, NOBODY, RECLAIM_FIRST, State


@jit
def join_queue(st: State, queue: int, s: int) -> None:
    """A slot joins behind all others."""
    following = FIFO_LINKS + 2 * queue
    first = RECLAIM_FIRST + 2 * queue
    last = st.n[first + 1]
    st.slot[following, s] = NOBODY
    st.slot[following + 1, s] = last
    if last < 0:
        st.n[first] = s
    else:
        st.slot[following, last] = s
    st.n[first + 1] = s


@jit
def leave_queue(st: State, queue: int, s: int) -> None:
    """A slot leaves, wherever it is."""
    following = FIFO_LINKS + 2 * queue
    first = RECLAIM_FIRST + 2 * queue
    after, previous = st.slot[following, s], st.slot[following + 1, s]
    if previous < 0:
        st.n[first] = after
    else:
        st.slot[following, previous] = after
    if after < 0:
        st.n[first + 1] = previous
    else:
        st.slot[following + 1, after] = previous
