"""The rules, compiled: one parametrised rule covers every baseline and the local fallback.

``rlkv_agents.rules`` names the combinations and gives their sources.
"""

from __future__ import annotations

from rlkv_engine import facts as F
from rlkv_engine.candidate import dirty_blocks, recompute_s
from rlkv_engine.estimates import remaining_s
from rlkv_engine.jit import jit
from rlkv_engine.state import (
    ARRIVED_AT,
    CALL,
    DISCARD,
    FACTS,
    NEW,
    NOW,
    OUT_BLOCK_S,
    PAUSE_START,
    PAUSED_S,
    PRESERVE,
    RESUME,
    RULE,
    SWAP,
    State,
)
from rlkv_engine.victim_order import NUM_ORDER_TERMS, weighed_s

# Indices into State.rule.
(
    ORDER,  # victims: one of ORDER_*
    ESTIMATE,  # of the remaining pause: estimates.BY_*
    CALL_VERB,  # a verb, or CALL_LEASE
    NEW_VERB,  # a verb
    RESUME_VERB,  # a verb, or AUTO
    GROW_VERB,  # a verb, or AUTO
    SWAP_RATIO,  # AUTO swaps where copying out takes less than so many times recomputing
    GUARD_S,  # a new session may not take from one expected back within so many seconds
    EAGER,  # 1: min-waste reviews every paused session in every iteration
    SLACK_RATIO,  # an offer asks for so much more than is missing, as a share of the device pool
    ORDER_WEIGHTS,  # the first of the weights of ORDER_WEIGHED (victim_order.ORDER_TERMS)
) = range(11)
RULE_SIZE = ORDER_WEIGHTS + NUM_ORDER_TERMS

ORDER_REMAINING, ORDER_ELAPSED, ORDER_IDLENESS, ORDER_WEIGHED = 0, 1, 2, 3
#: CALL_VERB: PRESERVE with the lease of the tool in State.lease_s.
CALL_LEASE = 5
#: RESUME_VERB and GROW_VERB: SWAP where the memory is free soon enough, else DISCARD.
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
    expected_s = remaining_s(st, s, int(st.f[RULE + ESTIMATE]))
    if order == ORDER_WEIGHED:
        return weighed_s(st, s, expected_s, RULE + ORDER_WEIGHTS)
    return expected_s


@jit
def rule_verb(st: State, point: int, s: int) -> int:
    """The rule's verb for a candidate at a decision point of the open offer."""
    return rule_verb_behind(st, point, s, st.f[FACTS + F.PENDING_BLOCKS])


@jit
def rule_verb_behind(st: State, point: int, s: int, pending: float) -> int:
    """The same, ``pending`` blocks being swapped out before it.

    AUTO asks how long the requester would wait for the memory: what is under way goes first, then
    what the host does not hold yet. Copying it in again is no matter of now.
    """
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
        out_s = (pending + dirty_blocks(st, s)) * st.f[OUT_BLOCK_S]
        return SWAP if out_s < st.f[RULE + SWAP_RATIO] * recompute_s(st, s) else DISCARD
    return verb


@jit
def forced_verb(st: State, point: int, s: int) -> int:
    """The rule's verb where PRESERVE is no longer possible."""
    verb = rule_verb(st, point, s)
    return DISCARD if verb == PRESERVE else verb
