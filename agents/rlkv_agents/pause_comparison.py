"""What knowing pauses better is worth: the house rule, tuned for each way to know them.

By tool, by predicted class, by a class that the truth says (which nobody can know), and by the
truth itself, on the same traces.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.base_rule import Rule
from rlkv_agents.evaluate import evaluate, means, paired_ratio
from rlkv_agents.jobs import Job
from rlkv_agents.pause_statistics import pause_statistics
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFolder, digest
from rlkv_agents.suite import PARTS, scenario_digest, through_cache
from rlkv_agents.tune import ValidationRuns, choose, num_choice_runs, validation_traces
from rlkv_engine.estimates import HORIZON_PAUSES, PauseTable, mean_residual_s
from rlkv_engine.trace import Trace
from rlkv_envs.predicted_pauses import whole_sessions
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import Workload

#: The constants that pauses have a say in, and what the link decides; slack stays as it is.
GRID: Mapping[str, Sequence[float]] = {
    "guard_pauses": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
    "swap_ratio": (4.0, 1e9),
    "write_through": (0.0, 1.0),
}
#: Classes of equally many pauses that the truth is rounded to.
NUM_TRUE_CLASSES = 30
#: How pauses are known; the first is what the others are compared with.
ESTIMATES = ("tool", "predicted", "true class", "truth")


@dataclass(frozen=True, slots=True, eq=False)
class TrueClasses:
    """Puts every pause into the class that it turns out to be of."""

    edges_s: NDArray[np.float64]

    def turn_rows(self, trace: Trace) -> NDArray[np.int64]:
        """Class of the pause after each turn, shape ``[num_turns]``; -1 after last turns."""
        row = np.searchsorted(self.edges_s, trace.pause_s)
        return np.where(np.isfinite(trace.pause_s), row, -1)


@dataclass(frozen=True, slots=True, eq=False)
class KnowsTrueClasses(AgentPolicy):
    """A policy whose table is by true class: a bound."""

    def table(self, scenario: Scenario) -> PauseTable:
        """The table of the scenario's workload by true class."""
        return true_class_table(scenario.workload, scenario.table)


@lru_cache(maxsize=16)
def true_class_table(workload: Workload, usual: PauseTable) -> PauseTable:
    """``NUM_TRUE_CLASSES`` classes of training pauses, and all pauses as ``usual`` has them."""
    trace = whole_sessions(workload, "train")
    pause_s = np.sort(trace.pause_s[np.isfinite(trace.pause_s)])
    parts = [part for part in np.array_split(pause_s, NUM_TRUE_CLASSES) if part.size]
    horizon_s = HORIZON_PAUSES * usual.mean_pause_s
    return PauseTable(
        tools=usual.tools,
        residual_s=np.stack(
            [*(mean_residual_s(p, horizon_s) for p in parts), usual.residual_s[-1]]
        ),
        mean_s=np.array([*(part.mean() for part in parts), usual.mean_s[-1]]),
        quantiles_s=np.stack(
            [*(np.percentile(part, np.arange(101)) for part in parts), usual.quantiles_s[-1]]
        ),
        classes=TrueClasses(np.array([part[-1] for part in parts[:-1]])),
    )


#: Rule, and policy with that rule, for each of ESTIMATES.
_CONTESTANTS: Mapping[str, tuple[str, Callable[[str, Rule], AgentPolicy]]] = {
    "tool": ("house", AgentPolicy),
    "predicted": ("house", partial(AgentPolicy, predicts_pauses=True)),
    "true class": ("house", KnowsTrueClasses),
    "truth": ("clairvoyant", AgentPolicy),
}


def compare_estimates(
    scenario: Scenario, num_seeds: int = 16, on_run: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Mean normalized latency with each estimate on held-out traces, and its ratio to by tool.

    Returns:
        For each of ``ESTIMATES`` its ``constants``, ``mean_s`` (s/token), ``by_seed_s``, and the
        paired ``ratio`` to the first with its 95 % interval ``ci95``.
    """
    traces = validation_traces(scenario)
    policies = []
    chosen = {}
    for estimate, (rule, as_policy) in _CONTESTANTS.items():
        runs = ValidationRuns(scenario, rule, traces, on_score=on_run, as_policy=as_policy)
        best = choose(runs, _candidates())
        chosen[estimate] = dict(best.constants)
        policies.append(as_policy(estimate, best.rule))
    results = evaluate(scenario, policies, range(num_seeds), on_run=on_run)
    compared: dict[str, Any] = {}
    for estimate in ESTIMATES:
        ratio, ci95 = paired_ratio(results[estimate], results[ESTIMATES[0]])
        by_seed_s = means(results[estimate])
        compared[estimate] = {
            "constants": chosen[estimate],
            "mean_s": float(by_seed_s.mean()),
            "by_seed_s": by_seed_s.tolist(),
            "ratio": ratio,
            "ci95": list(ci95),
        }
    return compared


def compare_all(
    scenarios: Sequence[Scenario],
    num_seeds: int,
    folder: Path,
    num_workers: int,
    on_done: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """``compare_estimates`` of every scenario; what ``folder`` holds already is not run again."""
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {}
    for scenario in scenarios:
        inputs = digest(
            scenario_digest(scenario, "test"),
            scenario_digest(scenario, "validation"),
            scenario.predicted_table.residual_s,
            {name: list(values) for name, values in GRID.items()},
            [*ESTIMATES, NUM_TRUE_CLASSES, num_seeds],
        )
        job = Job(partial(compare_estimates, scenario, num_seeds), num_comparison_runs(num_seeds))
        wanted[scenario.name, f"{scenario.rate_per_s:g}"] = inputs, job
    found = through_cache(wanted, ResultFolder(folder / PARTS), num_workers, on_done)
    return [found[scenario.name, f"{scenario.rate_per_s:g}"] for scenario in scenarios]


def num_comparison_runs(num_seeds: int = 16) -> int:
    """How often ``compare_estimates`` calls ``on_run``."""
    return len(ESTIMATES) * (num_choice_runs(len(_candidates())) + num_seeds)


def held_out_statistics(workload: Workload, usual: PauseTable, predicted: PauseTable) -> Any:
    """``pause_statistics`` of each estimate but the truth on the workload's test sessions."""
    trace = whole_sessions(workload, "test")
    tables = (usual, predicted, true_class_table(workload, usual))
    return {
        estimate: pause_statistics(table, trace)
        for estimate, table in zip(ESTIMATES, tables, strict=False)
    }


def _candidates() -> list[dict[str, float]]:
    return [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
