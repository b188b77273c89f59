"""What a paused session would cost: the numbers that rules, orders and observations share."""

from __future__ import annotations

from rlkv_engine.jit import jit
from rlkv_engine.state import (
    HOST_HI,
    HOST_LO,
    KEEP,
    PREFILL_TOKEN_CONTEXT_S,
    PREFILL_TOKEN_S,
    VALID,
    ZERO,
    State,
)


@jit
def recompute_s(st: State, s: int) -> float:
    """Time to compute a paused slot's context again, seconds (its share of full iterations)."""
    tokens = st.slot[VALID, s]
    return tokens * (st.f[PREFILL_TOKEN_S] + st.f[PREFILL_TOKEN_CONTEXT_S] * 0.5 * tokens)


@jit
def dirty_blocks(st: State, s: int) -> int:
    """Firm device blocks of a slot that the host does not hold."""
    low, high = st.slot[HOST_LO, s], st.slot[HOST_HI, s]
    if high <= low:
        return st.slot[KEEP, s]
    return st.slot[KEEP, s] - max(ZERO, min(st.slot[KEEP, s], high) - low)
