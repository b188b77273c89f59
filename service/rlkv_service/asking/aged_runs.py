"""What the age of answers costs: a policy that is asked ahead, and answers iterations later."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rlkv_agents.evaluate import run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.ahead import AheadOptions
from rlkv_engine.trace import Trace
from rlkv_envs.metrics import RunResult, measure
from rlkv_envs.scenario import Scenario
from rlkv_service.asking.ahead import AgedAnswers, AskingAhead
from rlkv_service.asking.in_process import InProcessPolicy
from rlkv_service.asking.stepping import step_to_end, stepped_engine
from rlkv_service.schema import Reason


@dataclass(frozen=True, slots=True)
class AgedRun:
    """One policy on one trace, with answers of one age."""

    result: RunResult
    reasons: Counter[Reason]  #: decisions by who decided and why


def run_aged(
    scenario: Scenario,
    policy: AgentPolicy,
    trace: Trace,
    age: int,
    options: AheadOptions | None = None,
) -> AgedRun:
    """A trace to its end; the policy's rule decides where no answer is at hand.

    Args:
        scenario: machine and pauses.
        policy: what is asked.
        trace: the sessions.
        age: iterations from the one that asks to the first that has the answer; 0: the policy
            answers inside the loop, at once.
        options: of asking ahead.
    """
    if age == 0:
        result = run_policy(scenario, policy, trace)
        return AgedRun(result, Counter({Reason.POLICY: result.num_decisions}))
    bound = policy.on(scenario)
    engine = stepped_engine(scenario, bound, trace)
    planner = AskingAhead(AgedAnswers(InProcessPolicy(bound), age), options=options)
    step_to_end(engine, planner)
    engine.check_integrity()
    return AgedRun(measure(engine.state), planner.reasons)
