from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from rlkv_agents.pause_predictor import (
    booster_nodes,
    class_chances,
    fit_predictor,
    thread_trees,
    trace_features,
    training_sessions,
    whole_sessions,
)
from rlkv_agents.pause_statistics import expected_remaining_s
from rlkv_engine import rule as R
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import (
    BY_ELAPSED,
    BY_PREDICTOR,
    BY_TOOL,
    fit_pause_table,
    predicted_remaining_s,
    remaining_s,
)
from rlkv_engine.pause_features import PAUSE_FEATURES, WINDOW
from rlkv_engine.pause_predictor import PausePredictor, chances_matrix
from rlkv_engine.trace import Trace
from rlkv_envs.env_settings import house_rule
from rlkv_envs.workloads import TraceWorkload, make_workload
from tests.agents.paused_sessions import TOOLS, paused_sessions
from tests.envs.small_machine import small_profile

TRACE = paused_sessions()
PREDICTOR = fit_predictor(TRACE)
NAMES = [name for name, _ in PAUSE_FEATURES]


def pauses_of(trace: Trace) -> np.ndarray:
    return trace.pause_s[np.isfinite(trace.pause_s)]


@given(st.integers(0, 2**32 - 1))
def test_features_know_nothing_of_the_future(seed: int) -> None:
    """All that comes with the end of a pause is drawn anew: the features of it stay."""
    rng = np.random.default_rng(seed)
    trace = paused_sessions(20, seed=1)
    session = int(rng.integers(trace.num_sessions))
    first, end = trace.first_turn[session : session + 2]
    if end - first < 2:
        return
    turn = int(rng.integers(first, end - 1))
    called = np.flatnonzero(np.isfinite(trace.pause_s))
    at = int(np.searchsorted(called, turn))
    pause_s, tool = trace.pause_s.copy(), trace.tool.copy()
    pause_s[turn : end - 1] = rng.exponential(100.0, end - 1 - turn)
    tool[turn + 1 : end - 1] = rng.integers(len(TOOLS), size=end - 2 - turn)
    later: dict[str, Any] = {
        name: np.where(np.arange(trace.num_turns) > turn, rng.integers(100, 10**5), values)
        for name, values in (
            ("input_tokens", trace.input_tokens),
            ("shared_prefix_tokens", trace.shared_prefix_tokens),
            ("output_tokens", trace.output_tokens),
        )
    }
    other = replace(trace, pause_s=pause_s, tool=tool, **later)
    before, after = trace_features(PREDICTOR, trace), trace_features(PREDICTOR, other)
    np.testing.assert_array_equal(after[: at + 1], before[: at + 1])
    if at + 1 < len(called) and called[at + 1] < end - 1:
        assert not np.array_equal(after[at + 1], before[at + 1])  # or else nothing was changed


def test_features_by_hand() -> None:
    trace = paused_sessions(1, seed=3)
    pause_s = np.array([2.0, 8.0, 4.0, 1.0, np.nan])
    tool = np.array([0, 1, 0, 0, -1])
    trace = replace(
        trace,
        first_turn=np.array([0, 5]),
        input_tokens=np.array([100, 200, 300, 400, 500]),
        shared_prefix_tokens=np.array([0, 90, 180, 370, 480]),
        output_tokens=np.array([7, 8, 9, 10, 11]),
        pause_s=pause_s,
        tool=tool,
    )
    mean = PREDICTOR.tool_statistics[:, 0]
    third = dict(zip(NAMES, trace_features(PREDICTOR, trace)[3], strict=True))
    log_s = np.log(pause_s)
    expected = {
        "tool_mean": mean[0],
        "human": 0.0,
        "turn": 3.0,
        "last": log_s[2],
        "before_last": log_s[1],
        "moving_average": (log_s[2] + 0.7 * log_s[1] + 0.49 * log_s[0]) / 2.19,
        "tool_moving_average": (log_s[2] + 0.7 * log_s[0]) / 1.7,
        "tool_pauses": 2.0,
        "session_effect": (log_s[:3].sum() - 2 * mean[0] - mean[1]) / 6.0,
        "last_surprise": log_s[2] - mean[0],
        "longest": log_s[1],
        "last_tool_mean": mean[0],
        "output_tokens": np.log(10),
        "context_tokens": np.log(410),
        "new_tokens": np.log(31),
    }
    for name, value in expected.items():
        assert third[name] == pytest.approx(value, abs=1e-12), name
    first = dict(zip(NAMES, trace_features(PREDICTOR, trace)[0], strict=True))
    for name in ("last", "before_last", "moving_average", "tool_moving_average", "longest"):
        assert first[name] == mean[0]
    assert first["tool_pauses"] == first["session_effect"] == first["last_surprise"] == 0.0


def test_what_lies_beyond_the_window_does_not_count() -> None:
    num_turns = WINDOW + 3
    tokens = np.full(num_turns, 100)
    trace = replace(
        paused_sessions(1),
        first_turn=np.array([0, num_turns]),
        input_tokens=tokens,
        shared_prefix_tokens=tokens,
        output_tokens=tokens,
        tool=np.append(np.zeros(num_turns - 1, np.int64), -1),
        pause_s=np.append(np.full(num_turns - 1, 2.0), np.nan),
    )
    pause_s = trace.pause_s.copy()
    pause_s[0] = 500.0
    before = trace_features(PREDICTOR, trace)
    after = trace_features(PREDICTOR, replace(trace, pause_s=pause_s))
    np.testing.assert_array_equal(after[WINDOW + 1], before[WINDOW + 1])
    assert not np.array_equal(after[WINDOW], before[WINDOW])


@pytest.mark.parametrize("seed", range(5))
def test_compiled_trees_say_what_scikit_learn_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((600, len(PAUSE_FEATURES))).round(int(rng.integers(1, 4)))
    parts, goes_on = [], []
    for hazard in range(3):
        y = x @ rng.standard_normal(x.shape[1]) + rng.standard_normal(600) > 0.3 * hazard
        booster = HistGradientBoostingClassifier(
            max_iter=int(rng.integers(1, 20)),
            max_leaf_nodes=int(rng.integers(2, 20)),
            early_stopping=False,
            random_state=seed,
        ).fit(x, y)
        parts += booster_nodes(booster, hazard)
        goes_on.append(booster)
    unseen = np.concatenate([x, 3.0 * rng.standard_normal((300, x.shape[1]))])
    chances = np.zeros((len(unseen), 4))
    chances_matrix(thread_trees(parts), unseen, chances)
    survives = np.ones(len(unseen))
    for hazard, booster in enumerate(goes_on):
        lasts = booster.predict_proba(unseen)[:, 1]
        np.testing.assert_allclose(chances[:, hazard], survives * (1.0 - lasts), atol=1e-6)
        survives = survives * lasts
    np.testing.assert_allclose(chances[:, 3], survives, atol=1e-6)


def test_chances_are_chances_and_better_than_the_tool_alone() -> None:
    other = paused_sessions(seed=9)
    chances = class_chances(PREDICTOR, other)
    assert (chances >= 0).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    pause_s = pauses_of(other)
    tool = other.tool[np.isfinite(other.pause_s)]
    of_class = np.searchsorted(PREDICTOR.edges_s, pause_s, side="right")
    shares = np.stack(
        [
            np.bincount(of_class[tool == t], minlength=PREDICTOR.num_classes) / (tool == t).sum()
            for t in range(len(TOOLS))
        ]
    )
    row = np.arange(len(of_class))
    by_tool = np.log(shares[tool][row, of_class]).mean()
    assert np.log(chances[row, of_class]).mean() > by_tool + 0.2


@pytest.mark.parametrize("elapsed_s", [0.0, 0.3, 2.0, 11.0, 64.0])
def test_residual_life_is_that_of_the_samples(elapsed_s: float) -> None:
    """With the shares of the classes as chances the lookup is the mean of all pauses alive."""
    pause_s = pauses_of(TRACE)
    of_class = np.searchsorted(PREDICTOR.edges_s, pause_s, side="right")
    chances = np.bincount(of_class) / len(of_class)
    left_s = pause_s[pause_s > elapsed_s] - elapsed_s
    said_s = predicted_remaining_s(PREDICTOR.forecast(TOOLS), chances, elapsed_s)
    assert said_s == pytest.approx(left_s.mean(), rel=0.03)
    vectorised = expected_remaining_s(PREDICTOR, chances[np.newaxis], np.array([elapsed_s]))
    assert said_s == pytest.approx(vectorised[0], rel=1e-12)


@pytest.mark.parametrize("elapsed_s", [1e4, 1e6, 1e9])
def test_what_lasts_longer_than_any_pause_is_long(elapsed_s: float) -> None:
    chances = np.full(PREDICTOR.num_classes, 1.0 / PREDICTOR.num_classes)
    assert predicted_remaining_s(PREDICTOR.forecast(TOOLS), chances, elapsed_s) > 1e3
    chances[-1] = 0.0
    remaining = predicted_remaining_s(PREDICTOR.forecast(TOOLS), chances, elapsed_s)
    assert remaining == elapsed_s  # nothing is known: as long again


def test_the_same_seed_gives_the_same_predictor() -> None:
    again = fit_predictor(TRACE)
    for name in ("trees", "alive", "excess_s", "edges_s", "tool_statistics"):
        np.testing.assert_array_equal(getattr(again, name), getattr(PREDICTOR, name))


def test_a_tool_it_does_not_know_is_like_all_tools() -> None:
    statistics = PREDICTOR.statistics_of(("compile", "unheard-of"))
    np.testing.assert_array_equal(statistics[0], PREDICTOR.tool_statistics[1])
    for row in (1, 2):
        np.testing.assert_array_equal(statistics[row], PREDICTOR.tool_statistics[-1])


def test_few_calls_of_a_tool_count_little() -> None:
    tool = TRACE.tool.copy()
    rare = np.flatnonzero(tool == 2)[:2]
    tool[rare] = 3
    pause_s = TRACE.pause_s.copy()
    pause_s[rare] = 1e4
    statistics = fit_predictor(
        replace(TRACE, tools=(*TOOLS, "rare"), tool=tool, pause_s=pause_s)
    ).tool_statistics
    every, own = statistics[-1, 0], np.log(1e4)
    assert statistics[3, 0] == pytest.approx((2 * own + 30 * every) / 32)


def test_too_few_pauses_are_refused() -> None:
    with pytest.raises(InputError, match="needs at least 200"):
        fit_predictor(paused_sessions(20))


def test_pauses_all_alike_give_one_class() -> None:
    trace = replace(TRACE, pause_s=np.where(np.isfinite(TRACE.pause_s), 3.0, np.nan))
    predictor = fit_predictor(trace)
    assert predictor.num_classes == 1 and predictor.trees.shape == (0, 5)
    np.testing.assert_array_equal(class_chances(predictor, trace), 1.0)


def test_whole_sessions_are_those_of_their_split() -> None:
    workload = TraceWorkload(TRACE, max_turns=3, max_pause_s=50.0)
    trace = training_sessions(workload)
    assert trace.num_sessions == len(workload.pool("train"))
    assert np.diff(trace.first_turn).max() > 3
    assert pauses_of(trace).max() == 50.0
    assert not set(trace.roots) & set(whole_sessions(workload, "test").roots)
    drawn = [whole_sessions(make_workload("crossover"), s) for s in ("train", "test")]
    assert not np.array_equal(drawn[0].first_turn, drawn[1].first_turn)


def engine(predictor: PausePredictor | None, estimate: int = BY_TOOL) -> Engine:
    trace = paused_sessions(40, seed=5)
    trace = trace.with_arrivals(np.linspace(0.0, 20.0, trace.num_sessions))
    table = replace(fit_pause_table(TRACE), predictor=predictor)
    rule = house_rule(table.mean_pause_s)
    rule[R.ESTIMATE] = estimate
    return Engine(small_profile(), trace, rule, table=table)


def test_the_engine_predicts_what_was_fitted() -> None:
    running = engine(PREDICTOR)
    trace = running.trace
    called = np.flatnonzero(np.isfinite(trace.pause_s))
    chances = class_chances(PREDICTOR, trace)
    seen = 0
    while (decision := running.next_decision()) is not None:
        state = running.state
        for slot in state.slot[S.PAUSED_LIST, : state.n[S.NUM_PAUSED]]:
            expected = chances[np.searchsorted(called, state.slot[S.TURN, slot])]
            np.testing.assert_allclose(state.real[S.REAL_ROWS :, slot], expected, atol=1e-12)
            elapsed_s = state.f[S.NOW] - state.real[S.PAUSE_START, slot]
            left_s = expected_remaining_s(PREDICTOR, expected[np.newaxis], np.array([elapsed_s]))
            assert remaining_s(state, slot, BY_PREDICTOR) == pytest.approx(left_s[0], rel=1e-9)
            seen += 1
        running.answer(decision.rule_verb)
    assert seen > 1000


@pytest.mark.parametrize(("given_by", "used"), [(BY_TOOL, BY_PREDICTOR), (BY_ELAPSED, BY_ELAPSED)])
def test_rules_that_go_by_tool_go_by_the_predictor(given_by: int, used: int) -> None:
    assert engine(PREDICTOR, given_by).state.f[S.RULE + R.ESTIMATE] == used
    assert engine(None, given_by).state.f[S.RULE + R.ESTIMATE] == given_by


def test_observations_say_what_the_predictor_says() -> None:
    seen = []
    for predictor in (None, PREDICTOR):
        running = engine(predictor)
        running.next_decision()
        seen.append(running.observe())
    assert not np.array_equal(seen[0], seen[1])
    assert engine(None).state.real.shape[0] == S.REAL_ROWS
