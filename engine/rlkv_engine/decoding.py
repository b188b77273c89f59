"""Decoding sessions, looked at only when something happens to them.

A session in DECODE computes and emits one token in every iteration in which it is not stalled. To
count that up for each of them would cost more than the rest of an iteration. So its COMPUTED and
GENERATED stay as they were at the start of iteration ``SINCE``, and ``DUE`` is the iteration before
which its turn will have ended or, if that is sooner, at whose start it will need another block.
"""

from __future__ import annotations

from rlkv_engine.jit import jit
from rlkv_engine.state import (
    BLOCK_SIZE,
    COMPUTED,
    DECODE,
    DEV,
    DUE,
    GENERATED,
    ITERATION,
    NUM_RUN,
    OUTPUT_TOKENS,
    PHASE,
    RUN,
    SINCE,
    TURN,
    State,
    engine_view,
)


@jit
def tokens_left(st: State, s: int) -> int:
    """Tokens that the turn of a session will still emit after iteration ``SINCE`` has begun."""
    return st.turns[OUTPUT_TOKENS, st.slot[TURN, s]] - st.slot[GENERATED, s]


@jit
def catch_up(st: State, s: int, iteration: int) -> None:
    """COMPUTED and GENERATED of a decoding session, as they are when ``iteration`` starts."""
    passed = iteration - st.slot[SINCE, s]
    st.slot[COMPUTED, s] += passed
    st.slot[GENERATED, s] += passed
    st.slot[SINCE, s] = iteration


@jit
def set_due(st: State, s: int) -> None:
    """When a decoding session is to be looked at next; to be called whenever its blocks change."""
    room = st.slot[DEV, s] * st.n[BLOCK_SIZE] - st.slot[COMPUTED, s]
    st.slot[DUE, s] = st.slot[SINCE, s] + min(room, tokens_left(st, s))


@jit
def settle(stack: State, e: int) -> None:
    """Every decoding session of engine ``e`` as it is now, for who reads a state from outside."""
    st = engine_view(stack, e)
    for i in range(st.n[NUM_RUN]):
        s = st.slot[RUN, i]
        if st.slot[PHASE, s] == DECODE:
            catch_up(st, s, st.n[ITERATION])
