"""What each mechanism of the house rule and the engine is worth: one switched off at a time.

The other constants are tuned again for every ablation, on the part of the house rule's grid that
has the switched-off value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rlkv_agents.contestants import REFERENCE
from rlkv_agents.jobs import Job
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFile, digest
from rlkv_agents.rules import make_rule
from rlkv_agents.suite import (
    TUNED,
    Evaluation,
    Setting,
    evaluate_all,
    through_cache,
    tuning_cost,
    tuning_digest,
)
from rlkv_agents.suite_regret import suite_regret
from rlkv_agents.train import OnProgress
from rlkv_agents.tune import ValidationRuns, choose, grid_of, validation_traces
from rlkv_engine.config import EngineConfig
from rlkv_envs.scenario import Scenario

FULL = "full rule"
_SHIPPED = EngineConfig()
#: Where the tuned constants of one scenario's ablations lie in ``tuned.json``.
_ABLATIONS = "ablations"
#: Raised when the search over them changes: their digests would not notice.
_SEARCH = 2


@dataclass(frozen=True, slots=True)
class Ablation:
    """The house rule with a mechanism fixed: by constants, or by a switch of the engine."""

    name: str
    pinned: Mapping[str, float] = field(default_factory=dict)
    config: EngineConfig = _SHIPPED


#: In the order of the table; the first is what the others are held against.
ABLATIONS = (
    Ablation(FULL),
    Ablation("no slack", {"slack_ratio": 0.0}),
    Ablation("slack 1.2 %", {"slack_ratio": 0.012}),
    Ablation("no host victims", config=EngineConfig(host_victims=False)),
    Ablation("always swap", {"swap_ratio": 1e9}),
    Ablation("never swap", {"swap_ratio": 0.0}),
    Ablation("no guard", {"guard_pauses": 0.0}),
    Ablation("no write-through", {"write_through": 0.0}),
    Ablation("always write-through", {"write_through": 1.0}),
)


def ablate(
    settings: Sequence[Setting],
    seeds: Sequence[int],
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Every ablation on every setting.

    Returns:
        ``regret`` (``suite_regret`` against the full rule), ``mean_s``: scenario -> ablation ->
        mean normalized latency, s/token, and ``constants``: scenario -> ablation -> constants.
    """
    pins = [[each.name, dict(each.pinned), asdict(each.config)] for each in ABLATIONS]
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {
        (setting.scenario.name, _ABLATIONS, setting.arrivals): (
            digest(tuning_digest(setting.scenario, REFERENCE), pins, _SEARCH),
            Job(partial(_tuned, setting.scenario), 3 * tuning_cost(REFERENCE)),
        )
        for setting in settings
    }
    cache = ResultFile(folder / TUNED)
    tuned = through_cache(wanted, cache, num_workers, partial(on_progress, "tune"))
    evaluations = []
    for setting, constants in zip(settings, tuned_in_order(settings, tuned), strict=True):
        for each in ABLATIONS:
            policy = AgentPolicy(each.name, make_rule(REFERENCE, constants[each.name]))
            key = (setting.scenario.name, f"{REFERENCE}, {each.name}", setting.arrivals)
            evaluations.append(Evaluation(key, setting, policy, each.config))
    figures = evaluate_all(evaluations, seeds, folder, num_workers, on_progress)
    latency_s: dict[str, dict[str, list[float]]] = {}
    mean_s: dict[str, dict[str, float]] = {}
    for each_run in evaluations:
        scenario, name = each_run.key[0], each_run.policy.name
        found = figures[each_run.key]
        latency_s.setdefault(scenario, {})[name] = found["mean_by_seed_s"]
        mean_s.setdefault(scenario, {})[name] = found["normalized_latency_s"]["mean"]
    names = [setting.scenario.name for setting in settings]
    return {
        "regret": suite_regret(latency_s, {s.scenario.name: s.suite for s in settings}, FULL),
        "mean_s": mean_s,
        "constants": dict(zip(names, tuned_in_order(settings, tuned), strict=True)),
    }


def tuned_in_order(
    settings: Sequence[Setting], tuned: Mapping[tuple[str, ...], dict[str, Any]]
) -> list[dict[str, dict[str, float]]]:
    """Ablation -> constants, for each setting."""
    return [tuned[each.scenario.name, _ABLATIONS, each.arrivals] for each in settings]


def _tuned(scenario: Scenario) -> dict[str, dict[str, float]]:
    traces = validation_traces(scenario)
    # Runs of one engine serve every ablation: the grids overlap.
    runs = {
        each.config: ValidationRuns(scenario, REFERENCE, traces, each.config) for each in ABLATIONS
    }
    for each in ABLATIONS:
        choose(runs[each.config], _candidates(each))
    # Then each takes the best of all finalists that it may: the whole grid never loses to a part.
    return {each.name: _best_finalist(runs[each.config], _candidates(each)) for each in ABLATIONS}


def _candidates(ablation: Ablation) -> list[dict[str, float]]:
    pinned = ablation.pinned.items()
    return [constants for constants in grid_of(REFERENCE) if pinned <= constants.items()]


def _best_finalist(
    runs: ValidationRuns, candidates: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    num_traces = len(runs.traces)
    finalists = [c for c in candidates if len(runs.known_s(c)) == num_traces]
    return dict(runs.best(finalists, 1, num_traces)[0][0])
