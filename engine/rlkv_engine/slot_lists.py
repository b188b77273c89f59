"""Lists of slots in an order: by priority (running, prefilling, queued), and by return of a tool.

The first are sorted arrays, the last is a binary heap on RETURN_AT of the paused slots.
"""

from __future__ import annotations

from rlkv_engine.jit import jit
from rlkv_engine.state import HEAP, NUM_PAUSED, RETURN_AT, SID, State, before


@jit
def _position(st: State, slots, count: int, s: int) -> int:  # type: ignore[no-untyped-def]
    # How many slots of a list sorted by priority come before s: its place there.
    low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        if before(st, slots[middle], s):
            low = middle + 1
        else:
            high = middle
    return low


@jit
def insert_sorted(st: State, slots, count: int, s: int) -> None:  # type: ignore[no-untyped-def]
    """Put a slot into a list sorted by priority that has ``count`` so far."""
    # A loop over the part that moves, from 0, is compiled to a block move.
    moved = slots[_position(st, slots, count, s) : count + 1]
    for i in range(moved.shape[0] - 1, 0, -1):
        moved[i] = moved[i - 1]
    moved[0] = s


@jit
def remove_sorted(st: State, slots, count: int, s: int) -> None:  # type: ignore[no-untyped-def]
    """Take a slot out of a list sorted by priority that has ``count`` so far."""
    moved = slots[_position(st, slots, count, s) : count]
    for i in range(moved.shape[0] - 1):
        moved[i] = moved[i + 1]


@jit
def _earlier(st: State, a: int, b: int) -> bool:
    if st.real[RETURN_AT, a] != st.real[RETURN_AT, b]:
        return st.real[RETURN_AT, a] < st.real[RETURN_AT, b]
    return st.slot[SID, a] < st.slot[SID, b]


@jit
def push_return(st: State, s: int) -> None:
    """Put a slot that is about to pause into the heap."""
    _sift_up(st, st.n[NUM_PAUSED], s)


@jit
def move_up_return(st: State, s: int) -> None:
    """A slot of the heap returns sooner than it did."""
    i = 0
    while st.slot[HEAP, i] != s:
        i += 1
    _sift_up(st, i, s)


@jit
def _sift_up(st: State, i: int, s: int) -> None:
    while i > 0:
        parent = (i - 1) // 2
        if not _earlier(st, s, st.slot[HEAP, parent]):
            break
        st.slot[HEAP, i] = st.slot[HEAP, parent]
        i = parent
    st.slot[HEAP, i] = s


@jit
def pop_return(st: State) -> int:
    """Take the slot that returns first out of the heap."""
    first = st.slot[HEAP, 0]
    count = st.n[NUM_PAUSED] - 1
    last = st.slot[HEAP, count]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= count:
            break
        if child + 1 < count and _earlier(st, st.slot[HEAP, child + 1], st.slot[HEAP, child]):
            child += 1
        if not _earlier(st, st.slot[HEAP, child], last):
            break
        st.slot[HEAP, i] = st.slot[HEAP, child]
        i = child
    st.slot[HEAP, i] = last
    return first
