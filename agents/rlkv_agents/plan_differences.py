"""Where a plan departs from a rule: at every decision of the plan the rule is asked too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.lookahead import MAIN, NOWHERE, legal_verb, run_plan
from rlkv_agents.plan import EVERYWHERE, Plan
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.policy_stack import policy_stack
from rlkv_engine.jit import jit
from rlkv_engine.layout import grow_slots
from rlkv_engine.loop import DECIDE
from rlkv_engine.rule import rule_verb, victim_score
from rlkv_engine.state import (
    ASKED,
    CALL,
    CALLED,
    DECISION_POINT,
    DECISION_SLOT,
    HOST_FREE,
    KEEP,
    MEAN_PAUSE_S,
    NOW,
    NUM_DEVICE,
    NUM_HOST,
    NUM_PAUSED,
    OFFER_ID,
    PAUSED_FIRM,
    PAUSED_LIST,
    RETURN_AT,
    RULE,
    SID,
    State,
    engine_view,
)
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

POINTS = ("call", "new", "resume", "grow")
VERB_NAMES = ("preserve", "swap", "discard", "swap now")
#: Remainders count as at most so many mean pauses: a long tail would hide the others.
MAX_PAUSES = 4.0
# Columns of what is noted of a decision.
_POINT, _RULE_VERB, _OTHER_VICTIM, _REMAINING, _PAUSED, _HOST_FREE, _COLUMNS = range(7)


@jit
def _note(stack: State, rule: NDArray[np.float64], own: NDArray[np.float64],
          row: NDArray[np.float64]) -> None:  # fmt: skip
    # The open decision, and what another rule says to it: its verb, and whether it would have
    # asked about another session.
    st = engine_view(stack, MAIN)
    s = st.n[DECISION_SLOT]
    for i in range(rule.shape[0]):
        own[i] = st.f[RULE + i]
        st.f[RULE + i] = rule[i]
    row[_POINT] = st.n[DECISION_POINT]
    row[_RULE_VERB] = legal_verb(st, rule_verb(st, st.n[DECISION_POINT], s))
    row[_OTHER_VICTIM] = 0.0
    if st.n[DECISION_POINT] != CALL:
        score = victim_score(st, s)
        for i in range(st.n[NUM_PAUSED]):
            v = st.slot[PAUSED_LIST, i]
            asked = st.slot[ASKED, v] == st.n[OFFER_ID]
            if v == s or st.slot[KEEP, v] == 0 or st.slot[CALLED, v] == 0 or asked:
                continue
            other = victim_score(st, v)
            if other > score or (other == score and st.slot[SID, v] > st.slot[SID, s]):
                row[_OTHER_VICTIM] = 1.0
                break
    for i in range(rule.shape[0]):
        st.f[RULE + i] = own[i]
    remaining_s = st.real[RETURN_AT, s] - st.f[NOW]
    row[_REMAINING] = min(remaining_s / st.f[MEAN_PAUSE_S], MAX_PAUSES)
    row[_PAUSED] = st.n[PAUSED_FIRM] / st.n[NUM_DEVICE]
    row[_HOST_FREE] = st.n[HOST_FREE] / max(st.n[NUM_HOST], 1)


def differences(
    scenario: Scenario, plan: Plan, trace: Trace, rule: AgentPolicy
) -> list[dict[str, Any]]:
    """The plan's decisions by decision point, the rule's verb and the plan's.

    Returns:
        A row each with ``point``, ``rule`` and ``plan`` (verbs), ``count``, and sums over these
        decisions: ``other_victim`` (the rule would have asked about another session),
        ``remaining_pauses`` (true remainder in mean pauses, at most ``MAX_PAUSES``),
        ``paused_ratio`` (share of the device pool that paused sessions hold firmly) and
        ``host_free_ratio``.
    """
    rows = _decisions(scenario, plan, trace, rule)
    verbs = np.column_stack([rows[:, _POINT], rows[:, _RULE_VERB], plan.answers]).astype(np.int64)
    table = []
    for point, by_rule, by_plan in np.unique(verbs, axis=0):
        chosen = rows[(verbs == (point, by_rule, by_plan)).all(axis=1)]
        sums = chosen.sum(axis=0)
        table.append(
            {
                "point": POINTS[point],
                "rule": VERB_NAMES[by_rule],
                "plan": VERB_NAMES[by_plan],
                "count": len(chosen),
                "other_victim": float(sums[_OTHER_VICTIM]),
                "remaining_pauses": float(sums[_REMAINING]),
                "paused_ratio": float(sums[_PAUSED]),
                "host_free_ratio": float(sums[_HOST_FREE]),
            }
        )
    return table


def _decisions(
    scenario: Scenario, plan: Plan, trace: Trace, rule: AgentPolicy
) -> NDArray[np.float64]:
    # A row for each answer of the plan, [num_decisions, _COLUMNS].
    stack, policy = policy_stack(scenario, plan.base, [trace], num_engines=1), plan.base.compiled()
    params = rule.rule.params(scenario.table)
    own, uniforms, done = np.zeros_like(params), np.zeros(1), np.zeros(2, np.int64)
    rows, given = np.zeros((len(plan.answers), _COLUMNS)), np.zeros(1, np.uint8)
    for k in range(-1, len(plan.answers) - 1):
        lead = plan.answers[max(k, 0) : k + 1]
        left = len(lead)
        while True:
            state = run_plan(
                stack, MAIN, policy, math.inf, left, EVERYWHERE, lead, left,
                NOWHERE, 0.0, uniforms, done, given,
            )  # fmt: skip
            if state == DECIDE:
                break
            # No slot was left for the next session: the answer before it has been given.
            stack = grow_slots(stack)
            left = 0
        _note(stack, params, own, rows[k + 1])
    return rows
