"""What knowing pauses better is worth: one rule, tuned for each way to know them.

The house rule by the per-tool table, by a predictor and by the truth, on the same traces.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlkv_agents.evaluate import evaluate, means, paired_ratio
from rlkv_agents.knee import find_knee
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_agents.tune import (
    NUM_FINALISTS,
    NUM_SCREENING,
    NUM_VALIDATION,
    validation_latency_s,
    validation_traces,
)
from rlkv_engine.pause_predictor import PausePredictor
from rlkv_envs.scenario import Scenario

#: The constants that pauses have a say in, and what the link decides; slack stays as it is.
GRID: Mapping[str, Sequence[float]] = {
    "guard_pauses": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
    "swap_ratio": (1.0, 1e9),
    "write_through": (0.0, 1.0),
}
ESTIMATES = ("table", "predictor", "truth")


def compare_estimates(
    scenario: Scenario,
    predictor: PausePredictor,
    *,
    num_seeds: int = 16,
    on_run: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Mean normalized latency with each estimate on held-out traces, and its ratio to the table's.

    Returns:
        ``rate_per_s``, and for each of ``ESTIMATES`` its ``constants``, ``mean_s`` (s/token),
        ``by_seed_s``, and the paired ``ratio`` to the table with its 95 % interval ``ci95``.
    """
    plain = scenario.with_predictor(None)
    knowing = {"table": plain, "predictor": scenario.with_predictor(predictor), "truth": plain}
    runs, chosen = {}, {}
    for estimate in ESTIMATES:
        name = "clairvoyant" if estimate == "truth" else "house"
        chosen[estimate] = _tuned(knowing[estimate], name, on_run)
        policy = AgentPolicy(name, make_rule(name, chosen[estimate]))
        results = evaluate(knowing[estimate], [policy], list(range(num_seeds)), on_run=on_run)
        runs[estimate] = results[name]
    compared: dict[str, Any] = {"rate_per_s": scenario.rate_per_s}
    for estimate in ESTIMATES:
        ratio, ci95 = paired_ratio(runs[estimate], runs["table"])
        by_seed_s = means(runs[estimate])
        compared[estimate] = {
            "constants": chosen[estimate],
            "mean_s": float(by_seed_s.mean()),
            "by_seed_s": by_seed_s.tolist(),
            "ratio": ratio,
            "ci95": list(ci95),
        }
    return compared


def num_comparison_runs(num_seeds: int = 16) -> int:
    """How often ``compare_estimates`` calls ``on_run``."""
    num_candidates = len(_candidates())
    num_finalists = min(NUM_FINALISTS, num_candidates)
    return len(ESTIMATES) * (num_candidates + num_finalists + num_seeds)


def rate_at_latency(scenario: Scenario, factor: float, *, num_seeds: int = 2) -> float:
    """The arrival rate at which the house rule takes ``factor`` times an empty engine's latency."""
    policy = AgentPolicy("house", make_rule("house", {"guard_pauses": 2.0}))
    knee = find_knee(scenario, policy, seeds=tuple(range(num_seeds)), factor=factor)
    return knee.rate_per_s


def _candidates() -> list[dict[str, float]]:
    return [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]


def _tuned(scenario: Scenario, name: str, on_run: Callable[[], None]) -> dict[str, float]:
    # As `tune` does it, with the constants that pauses have a say in.
    traces = validation_traces(scenario, NUM_VALIDATION)
    candidates = _candidates()

    def score(constants: Mapping[str, float], num: int) -> float:
        policy = AgentPolicy(name, make_rule(name, constants))
        latency_s = validation_latency_s(scenario, policy, traces[:num])
        on_run()
        return float(np.log(latency_s).mean())

    screened = sorted((score(c, NUM_SCREENING), i) for i, c in enumerate(candidates))
    finalists = [candidates[i] for _, i in screened[:NUM_FINALISTS]]
    judged = sorted((score(c, NUM_VALIDATION), i) for i, c in enumerate(finalists))
    return finalists[judged[0][1]]
