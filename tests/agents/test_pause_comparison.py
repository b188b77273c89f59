from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlkv_agents import pause_comparison
from rlkv_agents.pause_comparison import (
    ESTIMATES,
    NUM_TRUE_CLASSES,
    compare_estimates,
    held_out_statistics,
    num_comparison_runs,
    true_class_table,
)
from rlkv_envs.workloads import TraceWorkload
from tests.agents.small_scenario import small_scenario
from tests.envs.paused_sessions import paused_sessions

SCENARIO = replace(small_scenario(), workload=TraceWorkload(paused_sessions(1000)), rate_per_s=0.6)


def test_the_comparison_is_paired_and_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"guard_pauses": (0.0, 0.5), "write_through": (1.0,)}
    monkeypatch.setattr(pause_comparison, "GRID", grid)
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    compared = compare_estimates(SCENARIO, 6, on_run=count)
    assert list(compared) == list(ESTIMATES)
    assert calls == num_comparison_runs(6)
    assert compared["tool"]["ratio"] == 1.0
    assert compared["true class"]["ratio"] < 1.0 and compared["truth"]["ratio"] < 1.0
    for row in compared.values():
        low, high = row["ci95"]
        assert low <= row["ratio"] <= high
        assert row["mean_s"] == pytest.approx(np.mean(row["by_seed_s"]))
    assert compared["predicted"]["by_seed_s"] != compared["tool"]["by_seed_s"]
    assert compare_estimates(SCENARIO, 6) == compared


def test_true_classes_are_those_of_the_pauses() -> None:
    table = true_class_table(SCENARIO.workload, SCENARIO.table)
    trace = SCENARIO.trace(0, "test")
    called = np.isfinite(trace.pause_s)
    rows = table.turn_rows(trace)
    assert (rows[~called] == -1).all()
    order = np.argsort(trace.pause_s[called])
    assert (np.diff(rows[called][order]) >= 0).all()
    assert rows.max() == NUM_TRUE_CLASSES - 1
    np.testing.assert_array_equal(table.residual_s[-1], SCENARIO.table.residual_s[-1])
    assert (np.diff(table.mean_s[:-1]) > 0).all()


def test_who_knows_more_scores_better() -> None:
    figures = held_out_statistics(SCENARIO.workload, SCENARIO.table, SCENARIO.predicted_table)
    scores = [each["remainder_variance"] for each in figures.values()]
    assert list(figures) == list(ESTIMATES[:3])
    assert scores[0] < scores[1] < scores[2]
