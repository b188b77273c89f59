"""`rlkv tune`: the constants of a rule for one scenario, by search on validation traces.

The grid is tried on a few paired traces, the best candidates again on all of them: the same traces
and the same budget that choose a learned policy's snapshot.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlkv_agents.evaluate import means, run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import Rule, make_rule
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

#: Validation traces that choose between the best candidates, of the rule and of the learner alike.
NUM_VALIDATION = 16
#: Traces of the first round, and candidates that go on to the second.
NUM_SCREENING = 4
NUM_FINALISTS = 6


@dataclass(frozen=True, slots=True)
class TunedRule:
    """What the search chose, with the mean normalized latency of every finalist."""

    rule: Rule
    constants: Mapping[str, float]
    validation_s: float  #: mean normalized latency of the choice, s/token
    finalists: Sequence[tuple[Mapping[str, float], float]]
    num_candidates: int


def validation_traces(scenario: Scenario, num: int = NUM_VALIDATION) -> list[Trace]:
    """The traces that choose: seeds 0 to ``num`` of the validation split."""
    return [scenario.trace(seed, "validation") for seed in range(num)]


def validation_latency_s(
    scenario: Scenario, policy: AgentPolicy, traces: Sequence[Trace]
) -> np.ndarray:
    """Mean normalized latency of a policy on each trace, shape ``[num_traces]``, s/token."""
    return means([run_policy(scenario, policy, trace) for trace in traces])


def grid_of(name: str) -> list[dict[str, float]]:
    """Every combination of a rule's grid; one empty combination for a rule without constants."""
    grid = type(make_rule(name)).grid
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def tune(
    scenario: Scenario,
    name: str,
    traces: Sequence[Trace] | None = None,
    on_run: Callable[[], None] = lambda: None,
) -> TunedRule:
    """Choose a rule's constants on validation traces; the geometric mean over traces decides."""
    if traces is None:
        traces = validation_traces(scenario)

    def score(constants: Mapping[str, float], on: Sequence[Trace]) -> float:
        policy = AgentPolicy(name, make_rule(name, constants))
        latency = validation_latency_s(scenario, policy, on)
        on_run()
        return float(np.exp(np.log(latency).mean()))

    candidates = grid_of(name)
    finalists = candidates
    if len(candidates) > NUM_FINALISTS:
        screened = [(score(constants, traces[:NUM_SCREENING]), i) for i, constants in
                    enumerate(candidates)]  # fmt: skip
        finalists = [candidates[i] for _, i in sorted(screened)[:NUM_FINALISTS]]
    judged = sorted(
        ((score(constants, traces), i) for i, constants in enumerate(finalists)),
    )
    latency, best = judged[0]
    return TunedRule(
        rule=make_rule(name, finalists[best]),
        constants=finalists[best],
        validation_s=latency,
        finalists=[(finalists[i], value) for value, i in judged],
        num_candidates=len(candidates),
    )


def num_tuning_runs(name: str) -> int:
    """How often ``tune`` calls ``on_run``."""
    candidates = len(grid_of(name))
    if candidates <= NUM_FINALISTS:
        return candidates
    return candidates + NUM_FINALISTS
