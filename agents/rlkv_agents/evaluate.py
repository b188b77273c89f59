"""Paired evaluation: every policy on the same traces, intervals over paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from rlkv_agents import side_by_side
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Engine
from rlkv_engine.errors import InputError
from rlkv_engine.histogram import Histogram
from rlkv_engine.latency import GAP_NAMES
from rlkv_engine.trace import Trace
from rlkv_envs.metrics import QUANTILES, RunResult, distribution, measure
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import Split

#: Resamples of a bootstrap interval.
NUM_RESAMPLES = 2000


def run_policy(
    scenario: Scenario, policy: AgentPolicy, trace: Trace, config: EngineConfig | None = None
) -> RunResult:
    """One policy on one trace of a scenario, to the end of its last session."""
    policy, table = policy.on(scenario), policy.table(scenario)
    engine = Engine(
        scenario.profile,
        trace,
        policy.rule.params(table),
        table=table,
        config=config,
        lease_s=policy.rule.leases(scenario.profile, table),
    )
    engine.run(policy.compiled())
    return measure(engine.state)


#: Runs a policy on a trace of a scenario, with switches of the scheduler.
Run = Callable[[Scenario, AgentPolicy, Trace, EngineConfig | None], RunResult]


def evaluate(
    scenario: Scenario,
    policies: Sequence[AgentPolicy],
    seeds: Sequence[int],
    split: Split = "test",
    config: EngineConfig | None = None,
    on_run: Callable[[], None] = lambda: None,
    run: Run = run_policy,
) -> dict[str, list[RunResult]]:
    """Every policy on the trace of every seed; ``on_run`` is called after each run.

    ``run`` is how, where not all of them answer inside the engine's loop.

    Raises:
        InputError: two policies of one name.
    """
    names = [policy.name for policy in policies]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two policies are called {name!r}: results are told apart by name")
    results: dict[str, list[RunResult]] = {policy.name: [] for policy in policies}
    for seed in seeds:
        trace = scenario.trace(seed, split)
        on_trace = partial(_on_trace, run, scenario, trace, config)
        # Where others are asked time matters: one engine at a time.
        each = side_by_side.each if run is run_policy else map
        for policy, result in zip(policies, each(on_trace, policies), strict=True):
            results[policy.name].append(result)
            on_run()
    return results


def _on_trace(
    run: Run, scenario: Scenario, trace: Trace, config: EngineConfig | None, policy: AgentPolicy
) -> RunResult:
    return run(scenario, policy, trace, config)


def means(runs: Sequence[RunResult]) -> NDArray[np.float64]:
    """Mean normalized latency of each run, seconds per token, shape ``[num_seeds]``."""
    return np.array([run.mean_latency_s for run in runs])


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of one value per seed."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(values), size=(NUM_RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def paired_ratio(
    policy: Sequence[RunResult], against: Sequence[RunResult]
) -> tuple[float, tuple[float, float]]:
    """Ratio of the mean latencies and its 95 % interval, seeds resampled in pairs."""
    ours, theirs = means(policy), means(against)
    rng = np.random.default_rng(0)
    picks = rng.integers(len(ours), size=(NUM_RESAMPLES, len(ours)))
    ratios = ours[picks].mean(axis=1) / theirs[picks].mean(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(ours.mean() / theirs.mean()), (float(low), float(high))


def summarize(runs: Sequence[RunResult]) -> dict[str, object]:
    """The figures of one policy over its seeds, as they stand in a record."""
    by_gap = [
        reduce(add, histograms)
        for histograms in zip(*(run.resume_latency_by_gap_s for run in runs), strict=True)
    ]
    return {
        "normalized_latency_s": _figures([run.normalized_latency_s for run in runs])
        | {"mean": float(means(runs).mean()), "ci95": list(bootstrap_interval(means(runs)))},
        "resume_latency_s": _figures(by_gap),
        "first_token_s": _figures([run.first_token_s for run in runs]),
        "resume_latency_by_gap_s": {
            name: distribution(histogram)
            for name, histogram in zip(GAP_NAMES, by_gap, strict=True)
            if histogram.count
        },
        "recompute_ratio": float(np.mean([run.recompute_ratio for run in runs])),
        "waste": float(np.mean([run.waste for run in runs])),
        "busy_ratio": float(np.mean([run.busy_ratio for run in runs])),
        "sessions_finished": int(sum(run.sessions_finished for run in runs)),
        "num_decisions": int(sum(run.num_decisions for run in runs)),
        "num_preemptions": int(sum(run.num_preemptions for run in runs)),
        "mean_by_seed_s": [float(mean) for mean in means(runs)],
    }


def _figures(histograms: Sequence[Histogram]) -> dict[str, object]:
    # A record has no NaN: without pauses there is no resume latency, and its figures are 0.
    total = reduce(add, histograms)
    return dict(distribution(total)) if total.count else dict.fromkeys(("mean", *QUANTILES), 0.0)
