from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rlkv_agents.pause_predictor import class_chances, fit_predictor
from rlkv_agents.pause_statistics import (
    LONG_S,
    _auc,
    _ordering,
    pause_statistics,
    survival_by_predictor,
    survival_by_table,
)
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import GRID_S, fit_pause_table
from tests.agents.paused_sessions import paused_sessions

TRAIN, TEST = paused_sessions(600, seed=0), paused_sessions(600, seed=1)
PREDICTOR, TABLE = fit_predictor(TRAIN), fit_pause_table(TRAIN)
FIGURES = pause_statistics(PREDICTOR, TABLE, TEST)


def test_a_predictor_that_knows_more_scores_better() -> None:
    table, predictor = FIGURES["table"], FIGURES["predictor"]
    for figure in ("explained_variance", "log_likelihood", "auc_long", "ordering"):
        assert predictor[figure] > table[figure] + 0.02, figure
    for level, loss in predictor["pinball"].items():
        assert loss < table["pinball"][level], level
    assert FIGURES["num_pauses"] == np.isfinite(TEST.pause_s).sum()


def test_explained_variance_is_that_of_the_means() -> None:
    # The sessions are drawn: the tool explains what it explains.
    log_s = np.log(np.maximum(TEST.pause_s, PREDICTOR.floor_s))
    called = np.isfinite(log_s)
    means = np.array([log_s[called & (TEST.tool == tool)].mean() for tool in range(3)])
    error = log_s[called] - means[TEST.tool[called]]
    expected = 1.0 - error.var() / log_s[called].var()
    assert FIGURES["table"]["explained_variance"] == pytest.approx(expected, abs=0.01)


def test_both_are_calibrated_on_sessions_like_those_they_know() -> None:
    # Few classes over four decades of pauses: what happens inside of one is coarser.
    for who, tolerance in (("table", 0.03), ("predictor", 0.09)):
        for level, share in FIGURES[who]["calibration"].items():
            assert share == pytest.approx(float(level), abs=tolerance), (who, level)


def test_calibration_sees_pauses_that_are_longer_than_expected() -> None:
    slower = replace(TEST, pause_s=3.0 * TEST.pause_s)
    figures = pause_statistics(PREDICTOR, TABLE, slower)
    assert figures["table"]["calibration"]["0.5"] < 0.4
    assert figures["table"]["log_likelihood"] < FIGURES["table"]["log_likelihood"]


def test_survival_falls_from_one_to_nothing() -> None:
    for survival in (survival_by_table(TABLE, TEST), survival_by_predictor(PREDICTOR, TEST)):
        assert survival.shape == (FIGURES["num_pauses"], len(GRID_S))
        assert (np.diff(survival, axis=1) <= 1e-12).all()
        np.testing.assert_allclose(survival[:, 0], 1.0)
        assert survival[:, -1].max() < 1e-3


def test_auc_is_scikit_learns() -> None:
    pause_s = TEST.pause_s[np.isfinite(TEST.pause_s)]
    score = class_chances(PREDICTOR, TEST)[:, -1].round(2)  # with ties
    expected = roc_auc_score(pause_s > LONG_S, score)
    assert _auc(score, pause_s > LONG_S) == pytest.approx(expected)
    assert _auc(score, np.zeros(len(score), bool)) is None


def test_ordering_is_0_for_a_coin_and_1_for_the_truth() -> None:
    remaining_s = np.random.default_rng(0).exponential(1.0, 1000)
    assert _ordering(np.zeros(1000), remaining_s) == 0.0
    assert _ordering(remaining_s, remaining_s) == pytest.approx(1.0)
    assert _ordering(-remaining_s, remaining_s) == pytest.approx(-1.0)


def test_a_trace_without_pauses_is_refused() -> None:
    none = replace(TEST, pause_s=np.full(TEST.num_turns, np.nan))
    with pytest.raises(InputError, match="no session pauses"):
        pause_statistics(PREDICTOR, TABLE, none)
