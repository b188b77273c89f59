"""A plan: the answers to every decision of one trace, in the order in which they are asked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.lookahead import ANY_NUMBER, MAIN, NOWHERE, run_plan
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.policy_stack import policy_stack
from rlkv_engine.errors import RlkvError
from rlkv_engine.layout import grow_slots, reset_engine
from rlkv_engine.loop import DONE, FULL
from rlkv_engine.state import one_engine
from rlkv_engine.trace import Trace
from rlkv_envs.metrics import RunResult, measure
from rlkv_envs.scenario import Scenario

#: All decision points: CALL, NEW, RESUME, GROW.
EVERYWHERE: NDArray[np.bool_] = np.ones(4, np.bool_)
#: Answers of a plan at first; there get to be more as there must.
_ROOM = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Answers to be given under the rule of ``base``, which orders the victims."""

    base: AgentPolicy
    answers: NDArray[np.uint8]  # [num_decisions], verbs


def plan_of(scenario: Scenario, policy: AgentPolicy, trace: Trace) -> Plan:
    """What a policy answers on a trace, as a plan."""
    answers, _ = _run(scenario, policy, trace, np.zeros(0, np.uint8))
    return Plan(policy, answers)


def replay(scenario: Scenario, plan: Plan, trace: Trace) -> RunResult:
    """Run a trace by a plan's answers.

    Raises:
        RlkvError: these are not the answers to this trace's decisions.
    """
    given, result = _run(scenario, plan.base, trace, plan.answers)
    if not np.array_equal(given, plan.answers):
        raise RlkvError(
            f"a plan of {len(plan.answers)} answers does not fit trace {trace.name}:"
            f" {len(given)} decisions were met"
        )
    return result


def _run(
    scenario: Scenario, policy: AgentPolicy, trace: Trace, lead: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], RunResult]:
    stack = policy_stack(scenario, policy, [trace], num_engines=1, keep_latencies=True)
    compiled, uniforms, done = policy.compiled(), np.zeros(1), np.zeros(2, np.int64)
    answers = np.zeros(max(_ROOM, len(lead) + 1), np.uint8)
    while True:
        state = run_plan(
            stack, MAIN, compiled, math.inf, ANY_NUMBER, EVERYWHERE, lead, len(lead),
            NOWHERE, 0.0, uniforms, done, answers,
        )  # fmt: skip
        if state == DONE:
            return answers[: done[0]].copy(), measure(one_engine(stack, 0))
        if state == FULL:
            stack = grow_slots(stack)
        else:
            answers = np.zeros(2 * len(answers), np.uint8)
        # From the start again: whatever was too small is larger now.
        reset_engine(stack, 0, 0, trace)
