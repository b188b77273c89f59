from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlkv_engine.engine import Engine
from rlkv_engine.estimates import (
    HORIZON_PAUSES,
    PauseTable,
    fit_pause_table,
    remaining_s,
    table_remaining_s,
)
from rlkv_engine.pause_predictor import PausePredictor
from rlkv_engine.state import NOW, NUM_PAUSED, PAUSE_START, PAUSED_LIST, TURN
from rlkv_engine.trace import Trace
from rlkv_envs.engine_stack import EngineStack
from rlkv_envs.env_settings import house_rule
from rlkv_envs.predicted_pauses import (
    MIN_CLASS_PAUSES,
    MIN_PAUSES,
    fit_predicted_table,
    predicted_table,
    whole_sessions,
)
from rlkv_envs.scenario import load_scenario
from rlkv_envs.traces import read_trace
from rlkv_envs.workloads import TraceWorkload, make_workload
from tests.engine.test_pause_predictor import live_classes
from tests.envs.paused_sessions import paused_sessions
from tests.envs.small_machine import small_profile, small_settings
from tests.envs.test_future import NUM_MOMENTS, count_changes

RECORDINGS = Path(__file__).parents[3] / "shared" / "data" / "weka_cc_traces" / "raw_sample"
TRACE = paused_sessions(600)
BY_TOOL = fit_pause_table(TRACE)
TABLE = fit_predicted_table(TRACE, BY_TOOL)


def predictor_of(table: PauseTable) -> PausePredictor:
    assert isinstance(table.classes, PausePredictor)
    return table.classes


def remainder_error(table: PauseTable, trace: Trace, elapsed_s: float) -> float:
    """Mean squared error of the expected remainder of pauses that have lasted so long."""
    horizon_s = HORIZON_PAUSES * table.mean_pause_s
    lasting = np.flatnonzero(trace.pause_s > elapsed_s)
    rows = table.turn_rows(trace)[lasting]
    said_s = np.array([table_remaining_s(table.residual_s, row, elapsed_s) for row in rows])
    left_s = np.minimum(trace.pause_s[lasting] - elapsed_s, horizon_s)
    return float(((left_s - said_s) ** 2).mean())


@pytest.mark.parametrize("elapsed_s", [0.0, 1.0, 10.0])
def test_classes_know_the_remainder_better_than_tools(elapsed_s: float) -> None:
    unseen = paused_sessions(600, seed=9)
    error = remainder_error(TABLE, unseen, elapsed_s)
    assert error < 0.95 * remainder_error(BY_TOOL, unseen, elapsed_s)


def test_a_table_by_class_is_a_table() -> None:
    predictor = predictor_of(TABLE)
    num_rows = predictor.num_classes + 1
    assert TABLE.residual_s.shape == (num_rows, BY_TOOL.residual_s.shape[1])
    assert TABLE.quantiles_s.shape == (num_rows, 101)
    np.testing.assert_array_equal(TABLE.residual_s[-1], BY_TOOL.residual_s[-1])
    assert TABLE.mean_pause_s == BY_TOOL.mean_pause_s
    assert (np.diff(TABLE.quantiles_s, axis=1) >= 0).all()
    count = np.bincount(TABLE.turn_rows(TRACE)[np.isfinite(TRACE.pause_s)])
    assert len(count) == predictor.num_classes and count.min() >= MIN_CLASS_PAUSES


def test_a_class_is_mixed_with_its_tools() -> None:
    # As if it had 30 more pauses: 27 like those of the tools it holds, 3 like any.
    called = np.isfinite(TRACE.pause_s)
    rows, tool, pause_s = TABLE.turn_rows(TRACE)[called], TRACE.tool[called], TRACE.pause_s[called]
    of_tool_s = np.array([pause_s[tool == t].mean() for t in range(len(TRACE.tools))])
    for k in range(predictor_of(TABLE).num_classes):
        own = rows == k
        like_s = 0.9 * of_tool_s[tool[own]].mean() + 0.1 * pause_s.mean()
        expected_s = (pause_s[own].sum() + 30 * like_s) / (own.sum() + 30)
        assert TABLE.mean_s[k] == pytest.approx(expected_s)


def test_the_same_seed_gives_the_same_table() -> None:
    again = fit_predicted_table(TRACE, BY_TOOL)
    np.testing.assert_array_equal(predictor_of(again).nodes, predictor_of(TABLE).nodes)
    np.testing.assert_array_equal(again.residual_s, TABLE.residual_s)


def test_where_there_is_nothing_to_learn_the_tool_says_it() -> None:
    called = np.isfinite(TRACE.pause_s)
    noise = np.random.default_rng(0).exponential(np.where(called, 1.0 + 10.0 * TRACE.tool, 1.0))
    alike = replace(TRACE, pause_s=np.where(called, noise, np.nan))
    usual = fit_pause_table(alike)
    assert fit_predicted_table(alike, usual) is usual
    few = paused_sessions(20)
    assert np.isfinite(few.pause_s).sum() < MIN_PAUSES
    assert fit_predicted_table(few, BY_TOOL) is BY_TOOL


def test_few_calls_of_a_tool_count_little() -> None:
    tool, pause_s = TRACE.tool.copy(), TRACE.pause_s.copy()
    rare = np.flatnonzero(tool == 2)[:2]
    tool[rare], pause_s[rare] = 3, 1e4
    trace = replace(TRACE, tools=(*TRACE.tools, "rare"), tool=tool, pause_s=pause_s)
    statistics = predictor_of(fit_predicted_table(trace, fit_pause_table(trace))).tool_statistics
    every, own = statistics[-1, 0], np.log(1e4)
    assert statistics[3, 0] == pytest.approx((2 * own + 30 * every) / 32)


def test_whole_sessions_are_those_of_their_split() -> None:
    workload = TraceWorkload(TRACE, max_turns=3, max_pause_s=50.0)
    trace = whole_sessions(workload, "train")
    assert trace.num_sessions == len(workload.pool("train"))
    assert np.diff(trace.first_turn).max() > 3
    assert np.nanmax(trace.pause_s) == 50.0
    assert not set(trace.roots) & set(whole_sessions(workload, "test").roots)
    drawn = [whole_sessions(make_workload("crossover"), s) for s in ("train", "test")]
    assert not np.array_equal(drawn[0].first_turn, drawn[1].first_turn)


def test_a_workload_is_fitted_once() -> None:
    scenario = load_scenario("infercept")
    table = scenario.predicted_table
    assert scenario.at_rate(1.0).predicted_table is table
    assert predicted_table(scenario.workload) is table
    assert table.mean_pause_s == scenario.table.mean_pause_s


def small_engine(table: PauseTable) -> Engine:
    trace = paused_sessions(40, seed=5)
    trace = trace.with_arrivals(np.linspace(0.0, 20.0, trace.num_sessions))
    return Engine(small_profile(), trace, house_rule(table.mean_pause_s), table=table)


def test_the_engine_reads_the_classes() -> None:
    engine = small_engine(TABLE)
    rows, seen = TABLE.turn_rows(engine.trace), 0
    while (decision := engine.next_decision()) is not None:
        state = engine.state
        for slot in state.slot[PAUSED_LIST, : state.n[NUM_PAUSED]]:
            elapsed_s = state.f[NOW] - state.real[PAUSE_START, slot]
            row = rows[state.slot[TURN, slot]]
            expected_s = table_remaining_s(TABLE.residual_s, row, elapsed_s)
            assert remaining_s(state, slot, 0) == expected_s
            seen += 1
        engine.answer(decision.rule_verb)
    assert seen > 1000


def test_a_bank_of_traces_has_the_classes_of_each() -> None:
    settings = small_settings()
    traces = [settings.trace(seed) for seed in range(3)]
    stack = EngineStack(replace(settings, table=TABLE), traces, 2)
    expected = np.concatenate([TABLE.turn_rows(trace) for trace in traces])
    np.testing.assert_array_equal(stack.state.turns[3], expected)
    np.testing.assert_array_equal(stack.state.residual_s, TABLE.residual_s)
    # The traces themselves are as they were.
    assert all((trace.turns[3] == trace.tool).all() for trace in traces)


def test_a_trace_by_tool_is_worked_on_where_it_is() -> None:
    engine = small_engine(BY_TOOL)
    assert np.shares_memory(engine.state.turns, engine.trace.turns)


@pytest.mark.parametrize("seed", range(2))
def test_changing_the_future_changes_no_observation_by_class(seed: int) -> None:
    settings = small_settings(workload="infercept")
    table = predicted_table(settings.scenario.workload)
    assert table.classes is not None
    early, late = count_changes(replace(settings, table=table), seed)
    assert early == 0
    assert late == NUM_MOMENTS  # or else the changes were none


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not here")
def test_recorded_sessions_are_told_the_same_live() -> None:
    table = load_scenario("coding").predicted_table
    predictor = predictor_of(table)
    met: set[int] = set()
    for path in sorted(RECORDINGS.glob("*.json")):
        trace = read_trace(path)
        rows = predictor.turn_rows(trace)
        met |= set(rows.tolist())
        for session in range(trace.num_sessions):
            first, end = trace.first_turn[session : session + 2]
            assert live_classes(predictor, trace, session) == rows[first : end - 1].tolist()
    assert len(met) > 5  # more than a row for each kind of pause, and the last turn
