"""A learned order of victims: the expected remainder, weighed by what else is known of a session.

The paused session with the longest expected remainder ``r`` is the first to give up its blocks.
With weights ``w`` it is the one with the largest ``r * exp(sum_i w_i x_i)``, ``x`` the terms below:
logarithms, so that an order is a product of powers, and its unit does not matter. All weights 0
give the plain order back. That what a session has attained so far should count is the idea of
least attained service first (Autellix, arXiv 2502.13965).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import facts as F
from rlkv_engine.candidate import dirty_blocks
from rlkv_engine.jit import jit, jit_inline
from rlkv_engine.state import (
    ARRIVED_AT,
    FIRST_SESSION,
    KEEP,
    MEAN_PAUSE_S,
    NEW,
    NOW,
    OFFER_KIND,
    PAUSE_START,
    PAUSED_S,
    SID,
    TURN,
    VALID,
    State,
)

#: In mean pauses: a shorter remainder is taken to be this long in its logarithm.
_SHORTEST = 1e-6


class OrderTerm(NamedTuple):
    """One term of a learned order."""

    name: str
    meaning: str


#: ``x`` of the order, for a candidate and whoever needs its blocks.
ORDER_TERMS = (
    OrderTerm("remaining", "log(expected remaining pause / mean pause), besides the factor r"),
    OrderTerm("soon", "1 if it is expected back within a mean pause"),
    OrderTerm("elapsed", "log(1 + pause so far / mean pause)"),
    OrderTerm("turns", "log(turns so far)"),
    OrderTerm("attained", "log(time outside tools so far / mean pause + 0.01)"),
    OrderTerm("context", "log(tokens of context)"),
    OrderTerm("firm", "log(firm device blocks)"),
    OrderTerm("dirty", "share of its firm device blocks that the host does not hold"),
    OrderTerm("new_turns", "for a new session: log(turns so far)"),
)
NUM_ORDER_TERMS = len(ORDER_TERMS)


@jit_inline
def order_weight(
    weights: NDArray[np.float64],
    first: int,
    remaining_pauses: float,
    elapsed_pauses: float,
    turns: float,
    attained_pauses: float,
    tokens: float,
    firm: float,
    dirty: float,
    for_new: bool,
) -> float:
    """``exp(sum_i w_i x_i)``, the weights from ``weights[first]`` on; times in mean pauses."""
    log_turns = math.log(max(turns, 1.0))
    return math.exp(
        weights[first] * math.log(max(remaining_pauses, _SHORTEST))
        + (weights[first + 1] if remaining_pauses < 1.0 else 0.0)
        + weights[first + 2] * math.log(1.0 + max(elapsed_pauses, 0.0))
        + weights[first + 3] * log_turns
        + weights[first + 4] * math.log(max(attained_pauses, 0.0) + 0.01)
        + weights[first + 5] * math.log(max(tokens, 1.0))
        + weights[first + 6] * math.log(max(firm, 1.0))
        + weights[first + 7] * dirty / max(firm, 1.0)
        + (weights[first + 8] * log_turns if for_new else 0.0)
    )


@jit
def weighed_s(st: State, s: int, remaining_s: float, first: int) -> float:
    """A paused slot's place in the order, seconds; the weights are ``st.f[first:]``."""
    mean_s = st.f[MEAN_PAUSE_S]
    elapsed_s = st.f[NOW] - st.real[PAUSE_START, s]
    attained_s = st.f[NOW] - st.real[ARRIVED_AT, s] - st.real[PAUSED_S, s] - elapsed_s
    return remaining_s * order_weight(
        st.f,
        first,
        remaining_s / mean_s,
        elapsed_s / mean_s,
        st.slot[TURN, s] - st.first_turn[st.n[FIRST_SESSION] + st.slot[SID, s]] + 1,
        attained_s / mean_s,
        st.slot[VALID, s],
        st.slot[KEEP, s],
        dirty_blocks(st, s),
        st.n[OFFER_KIND] == NEW,
    )


@jit
def weighed_rows_s(
    facts: NDArray[np.float64],
    remaining_s: NDArray[np.float64],
    weights: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """The same of rows of facts ``[n, NUM_FACTS]``, expected remainders ``[n]`` beside them.

    Args:
        facts: what is not known (NaN) counts as a mean pause, no time attained, nothing on the
            host.
        remaining_s: none of them NaN.
        weights: shape ``[NUM_ORDER_TERMS]``.
        out: seconds, ``[n]``.
    """
    for i in range(facts.shape[0]):
        row = facts[i]
        mean_s = row[F.MEAN_PAUSE_S] if row[F.MEAN_PAUSE_S] > 0.0 else 1.0
        attained_s = row[F.LIFE_S] - row[F.TOOL_WAIT_S]
        firm = row[F.DEVICE_BLOCKS]
        if math.isnan(firm):
            firm = row[F.CONTEXT_TOKENS] / row[F.BLOCK_SIZE]
        dirty = row[F.DIRTY_BLOCKS]
        out[i] = remaining_s[i] * order_weight(
            weights,
            0,
            remaining_s[i] / mean_s,
            row[F.ELAPSED_S] / mean_s,
            row[F.NUM_TURNS],
            0.0 if math.isnan(attained_s) else attained_s / mean_s,
            row[F.CONTEXT_TOKENS],
            firm,
            firm if math.isnan(dirty) else dirty,
            row[F.POINT] == NEW,
        )
