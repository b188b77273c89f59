"""The rules, compiled: one parametrised rule covers every baseline and the local fallback.

``rlkv_agents.rules`` names the combinations and gives their sources.
"""

from __future__ import annotations

from rlkv_engine.estimates import remaining_s
from rlkv_engine.jit import jit
from rlkv_engine.state import (
    ARRIVED_AT,
    BLOCK_SIZE,
    CALL,
    DISCARD,
    IN_BLOCK_S,
    NEW,
    NOW,
    OUT_BLOCK_S,
    PAUSE_START,
    PAUSED_S,
    PREFILL_TOKEN_CONTEXT_S,
    PREFILL_TOKEN_S,
    PRESERVE,
    RESUME,
    RULE,
    SWAP,
    VALID,
    State,
)

# Indices into State.rule.
(
    ORDER,  # victims: one of ORDER_*
    ESTIMATE,  # of the remaining pause: estimates.BY_*
    CALL_VERB,  # a verb, or CALL_LEASE
    NEW_VERB,  # a verb
    RESUME_VERB,  # a verb, or AUTO
    GROW_VERB,  # a verb, or AUTO
    SWAP_RATIO,  # AUTO swaps where copying out and in takes less than this share of recomputing
    GUARD_S,  # a new session may not take from one expected back within so many seconds
    EAGER,  # 1: min-waste reviews every paused session in every iteration
    SLACK_RATIO,  # an offer asks for so much more than is missing, as a share of the device pool
    RULE_SIZE,
) = range(11)

ORDER_REMAINING, ORDER_ELAPSED, ORDER_IDLENESS = 0, 1, 2
#: CALL_VERB: PRESERVE with the lease of the tool in State.lease_s.
CALL_LEASE = 5
#: RESUME_VERB and GROW_VERB: SWAP where the link is fast enough, else DISCARD.
AUTO = 4


@jit
def victim_score(st: State, s: int) -> float:
    """Order in which paused sessions are offered: the largest first."""
    order = st.f[RULE + ORDER]
    if order == ORDER_ELAPSED:
        return st.f[NOW] - st.real[PAUSE_START, s]
    if order == ORDER_IDLENESS:
        # Share of its life so far that the session has spent waiting for tools.
        elapsed = st.f[NOW] - st.real[PAUSE_START, s]
        life = st.f[NOW] - st.real[ARRIVED_AT, s]
        return (st.real[PAUSED_S, s] + elapsed) / (life + 1e-9)
    return remaining_s(st, s, int(st.f[RULE + ESTIMATE]))


@jit
def recompute_s(st: State, s: int) -> float:
    """Time to compute a paused slot's context again, seconds (its share of full iterations)."""
    tokens = st.slot[VALID, s]
    return tokens * (st.f[PREFILL_TOKEN_S] + st.f[PREFILL_TOKEN_CONTEXT_S] * 0.5 * tokens)


@jit
def link_s(st: State, s: int) -> float:
    """Time to copy a paused slot's context out and in again, seconds."""
    return st.slot[VALID, s] / st.n[BLOCK_SIZE] * (st.f[OUT_BLOCK_S] + st.f[IN_BLOCK_S])


@jit
def rule_verb(st: State, point: int, s: int) -> int:
    """The rule's verb for a candidate at a decision point."""
    if point == CALL:
        verb = int(st.f[RULE + CALL_VERB])
        return PRESERVE if verb == CALL_LEASE else verb
    if point == NEW:
        if remaining_s(st, s, int(st.f[RULE + ESTIMATE])) < st.f[RULE + GUARD_S]:
            return PRESERVE
        verb = int(st.f[RULE + NEW_VERB])
    elif point == RESUME:
        verb = int(st.f[RULE + RESUME_VERB])
    else:
        verb = int(st.f[RULE + GROW_VERB])
    if verb == AUTO:
        return SWAP if link_s(st, s) < st.f[RULE + SWAP_RATIO] * recompute_s(st, s) else DISCARD
    return verb


@jit
def forced_verb(st: State, point: int, s: int) -> int:
    """The rule's verb where PRESERVE is no longer possible."""
    verb = rule_verb(st, point, s)
    return DISCARD if verb == PRESERVE else verb
