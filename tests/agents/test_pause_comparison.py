from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlkv_agents import pause_comparison
from rlkv_agents.evaluate import run_policy
from rlkv_agents.forking import fork_rollouts
from rlkv_agents.pause_comparison import (
    ESTIMATES,
    compare_estimates,
    num_comparison_runs,
    rate_at_latency,
)
from rlkv_agents.pause_predictor import fit_predictor, training_sessions
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_envs.env_settings import make_settings
from rlkv_envs.vector import KVMemoryVectorEnv
from rlkv_envs.workloads import TraceWorkload
from tests.agents.paused_sessions import paused_sessions
from tests.agents.small_scenario import small_scenario

SCENARIO = replace(small_scenario(), workload=TraceWorkload(paused_sessions(400)), rate_per_s=0.6)
PREDICTOR = fit_predictor(training_sessions(SCENARIO.workload))
HOUSE = AgentPolicy("house", make_rule("house"))


def test_a_scenario_carries_its_predictor() -> None:
    with_it = SCENARIO.with_predictor(PREDICTOR)
    assert with_it.table.predictor is with_it.at_rate(2.0).table.predictor is PREDICTOR
    assert SCENARIO.table.predictor is None
    assert with_it.with_predictor(None).table.predictor is None
    np.testing.assert_array_equal(with_it.table.residual_s, SCENARIO.table.residual_s)


def test_environments_get_it_with_the_scenario() -> None:
    with_it = SCENARIO.with_predictor(PREDICTOR)
    assert make_settings({"scenario": with_it}).table.predictor is PREDICTOR
    other = make_settings({"scenario": with_it, "workload": "crossover"})
    assert other.table.predictor is None  # it knows nothing of that workload
    seen = []
    for scenario in (SCENARIO, with_it):
        env = KVMemoryVectorEnv(2, scenario=scenario)
        seen.append(env.reset(seed=0)[0])
    assert not np.array_equal(seen[0], seen[1])


def test_evaluation_and_forks_go_by_it() -> None:
    with_it = SCENARIO.with_predictor(PREDICTOR)
    trace = SCENARIO.trace(0, "test")
    plain, predicted = (run_policy(s, HOUSE, trace).mean_latency_s for s in (SCENARIO, with_it))
    assert plain != predicted
    forks = [
        fork_rollouts(
            scenario,
            replace(HOUSE, weights=[np.zeros(s) for s in ((4, 44), 4, (4, 4), 4, (3, 4), 3)]),
            [trace],
            forks_per_trace=5,
            horizon_s=5.0,
            rng=np.random.default_rng(0),
        )[0]
        for scenario in (SCENARIO, with_it)
    ]
    assert not np.array_equal(forks[0].observation[:3], forks[1].observation[:3])


def test_the_comparison_is_paired_and_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause_comparison, "GRID", {"guard_pauses": (0.0, 0.5)})
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    compared = compare_estimates(SCENARIO, PREDICTOR, num_seeds=6, on_run=count)
    assert calls == num_comparison_runs(6)
    assert compared["table"]["ratio"] == 1.0
    assert compared["truth"]["ratio"] < 1.0
    for estimate in ESTIMATES:
        row = compared[estimate]
        low, high = row["ci95"]
        assert low <= row["ratio"] <= high
        assert row["mean_s"] == pytest.approx(np.mean(row["by_seed_s"]))
    assert compared["predictor"]["by_seed_s"] != compared["table"]["by_seed_s"]
    assert compare_estimates(SCENARIO, PREDICTOR, num_seeds=6) == compared


def test_more_latency_is_met_at_a_higher_rate() -> None:
    scenario = SCENARIO.with_sessions(120)
    low, high = (rate_at_latency(scenario, factor, num_seeds=1) for factor in (1.2, 1.8))
    assert low < high
