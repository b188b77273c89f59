from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlkv_agents.pause_statistics import LONG_S, _auc, _ordering, pause_statistics, survival
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import GRID_S, fit_pause_table
from rlkv_envs.predicted_pauses import fit_predicted_table
from tests.envs.paused_sessions import paused_sessions

TRAIN, TEST = paused_sessions(1000, seed=0), paused_sessions(600, seed=1)
TABLE = fit_pause_table(TRAIN)
PREDICTED = fit_predicted_table(TRAIN, TABLE)
BY_TOOL, BY_CLASS = (pause_statistics(table, TEST) for table in (TABLE, PREDICTED))


def test_a_table_that_knows_more_scores_better() -> None:
    for figure in ("explained_variance", "log_likelihood", "auc_long", "ordering"):
        assert BY_CLASS[figure] > BY_TOOL[figure] + 0.01, figure
    assert BY_CLASS["remainder_variance"] > BY_TOOL["remainder_variance"]
    for level, loss in BY_CLASS["pinball"].items():
        assert loss < BY_TOOL["pinball"][level], level
    assert BY_TOOL["num_pauses"] == np.isfinite(TEST.pause_s).sum()


def test_explained_variance_is_that_of_the_means() -> None:
    # The sessions are drawn: the tool explains what it explains.
    called = np.isfinite(TEST.pause_s)
    log_s = np.log(np.maximum(TEST.pause_s, np.percentile(TEST.pause_s[called], 1)))
    means = np.array([log_s[called & (TEST.tool == tool)].mean() for tool in range(3)])
    error = log_s[called] - means[TEST.tool[called]]
    expected = 1.0 - error.var() / log_s[called].var()
    assert BY_TOOL["explained_variance"] == pytest.approx(expected, abs=0.01)


def test_both_are_calibrated_on_sessions_like_those_they_know() -> None:
    for figures in (BY_TOOL, BY_CLASS):
        for level, share in figures["calibration"].items():
            assert share == pytest.approx(float(level), abs=0.04), level


def test_calibration_sees_pauses_that_are_longer_than_expected() -> None:
    slower = pause_statistics(TABLE, replace(TEST, pause_s=3.0 * TEST.pause_s))
    assert slower["calibration"]["0.5"] < 0.4
    assert slower["log_likelihood"] < BY_TOOL["log_likelihood"]


def test_survival_falls_from_one_to_nothing() -> None:
    for table in (TABLE, PREDICTED):
        alive = survival(table)
        assert alive.shape == (len(table.mean_s), len(GRID_S))
        assert (np.diff(alive, axis=1) <= 1e-12).all()
        np.testing.assert_allclose(alive[:, 0], 1.0)
        assert alive[:, -1].max() < 1e-3


def test_auc_is_scikit_learns() -> None:
    from sklearn.metrics import roc_auc_score

    pause_s = TEST.pause_s[np.isfinite(TEST.pause_s)]
    score = np.random.default_rng(0).normal(pause_s > LONG_S).round(1)  # with ties
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
        pause_statistics(TABLE, none)
