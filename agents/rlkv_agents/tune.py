"""`rlkv tune`: the constants of a rule for one scenario, by search on validation traces.

The same traces and the same budget choose a learned policy's snapshot. A large grid is halved
(docs/decisions/0009-tuning-by-halving.md): everybody on one trace, the best third on two, the best
half of those on four, and so on, the last nine on all sixteen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from rlkv_agents import side_by_side
from rlkv_agents.base_rule import Rule
from rlkv_agents.evaluate import means, run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine.config import EngineConfig
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

#: Validation traces that choose between the best candidates, of the rule and of the learner alike.
NUM_VALIDATION = 16
#: Traces of the screening, and candidates that come through it.
NUM_SCREENING = 4
NUM_FINALISTS = 9
#: A larger grid is halved: traces of each round, and the part of the grid that comes through it.
MAX_SCREENED = 24
HALVING = ((1, 3), (2, 6), (4, 12), (8, 24))


@dataclass(frozen=True, slots=True)
class TunedRule:
    """What the search chose, with the mean normalized latency of every finalist."""

    rule: Rule
    constants: Mapping[str, float]
    validation_s: float  #: mean normalized latency of the choice, s/token
    finalists: Sequence[tuple[Mapping[str, float], float]]
    num_candidates: int


@dataclass(frozen=True, slots=True)
class ValidationRuns:
    """A rule's candidates on validation traces; no candidate is run twice on a trace."""

    scenario: Scenario
    name: str
    traces: Sequence[Trace]
    config: EngineConfig | None = None
    on_score: Callable[[], None] = lambda: None
    #: Of a candidate's name and rule: the policy that is run.
    as_policy: Callable[[str, Rule], AgentPolicy] = AgentPolicy
    latency_s: dict[tuple[float, ...], list[float]] = field(default_factory=dict)

    def known_s(self, constants: Mapping[str, float]) -> list[float]:
        """Mean normalized latency on the first traces, as far as they have been run, s/token."""
        return self.latency_s.setdefault(tuple(constants.values()), [])

    def score(self, constants: Mapping[str, float], num_traces: int) -> float:
        """Geometric mean of the mean normalized latency over the first traces, s/token."""
        known = self.known_s(constants)
        policy = self.as_policy(self.name, make_rule(self.name, constants))
        for trace in self.traces[len(known) : num_traces]:
            known.append(run_policy(self.scenario, policy, trace, self.config).mean_latency_s)
        return float(np.exp(np.log(np.array(known[:num_traces])).mean()))

    def best(
        self, candidates: Sequence[Mapping[str, float]], num_kept: int, num_traces: int
    ) -> list[tuple[Mapping[str, float], float]]:
        """So many candidates with their scores, the best first; ties in the order given."""
        scores = []
        for score in side_by_side.each(lambda c: self.score(c, num_traces), candidates):
            scores.append(score)
            self.on_score()
        scored = sorted((score, i) for i, score in enumerate(scores))
        return [(candidates[i], score) for score, i in scored[:num_kept]]


def validation_traces(scenario: Scenario, num: int = NUM_VALIDATION) -> list[Trace]:
    """The traces that choose: seeds 0 to ``num`` of the validation split."""
    return [scenario.trace(seed, "validation") for seed in range(num)]


def validation_latency_s(
    scenario: Scenario, policy: AgentPolicy, traces: Sequence[Trace]
) -> np.ndarray:
    """Mean normalized latency of a policy on each trace, shape ``[num_traces]``, s/token."""
    run = partial(run_policy, scenario, policy)
    return means(list(side_by_side.each(run, traces)))


def caution_score(latency_s: np.ndarray, base_s: np.ndarray) -> float:
    """Mean log ratio of paired latencies plus half its standard error; below 0: surely better."""
    ratio = np.log(latency_s / base_s)
    return float(ratio.mean() + 0.5 * ratio.std() / np.sqrt(len(ratio)))


def mean_ratio(latency_s: np.ndarray, base_s: np.ndarray) -> float:
    """Geometric mean of paired latencies over another policy's."""
    return float(np.exp(np.log(latency_s / base_s).mean()))


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
    return choose(ValidationRuns(scenario, name, traces, on_score=on_run), grid_of(name))


def choose(runs: ValidationRuns, candidates: Sequence[Mapping[str, float]]) -> TunedRule:
    """The best of these candidates, in as many rounds as their number needs."""
    left = candidates
    for num_kept, num_traces in _screenings(len(candidates)):
        left = [constants for constants, _ in runs.best(left, num_kept, num_traces)]
    judged = runs.best(left, len(left), len(runs.traces))
    constants, latency = judged[0]
    return TunedRule(
        rule=make_rule(runs.name, constants),
        constants=constants,
        validation_s=latency,
        finalists=judged,
        num_candidates=len(candidates),
    )


def _screenings(num_candidates: int) -> list[tuple[int, int]]:
    # Rounds before the last one: candidates that go on, traces that decide it.
    if num_candidates > MAX_SCREENED:
        return [(max(num_candidates // part, NUM_FINALISTS), num) for num, part in HALVING]
    return [(NUM_FINALISTS, NUM_SCREENING)] if num_candidates > NUM_FINALISTS else []


def num_tuning_runs(name: str) -> int:
    """How often ``tune`` calls ``on_run``."""
    return num_choice_runs(len(grid_of(name)))


def num_choice_runs(num_candidates: int) -> int:
    """How often ``choose`` calls ``on_score``."""
    return num_candidates + sum(num_kept for num_kept, _ in _screenings(num_candidates))
