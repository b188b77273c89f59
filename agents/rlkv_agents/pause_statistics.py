"""How well pauses are known: a predictor and the per-tool table on sessions they have not seen.

Both are asked for the whole distribution of every pause when it begins, as chances to last beyond
the times of ``estimates.GRID_S``; between two of them the logarithm is taken as uniform.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.pause_predictor import class_chances
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import FIRST_S, GRID_S, PauseTable
from rlkv_engine.pause_predictor import PausePredictor
from rlkv_engine.trace import Trace

LEVELS = (0.10, 0.25, 0.50, 0.75, 0.90)
#: "A long pause", seconds.
LONG_S = 30.0
#: Mixed into every bin before a logarithm is taken: an empty bin is not impossible.
SMOOTHING = 1e-4
#: Pairs of paused sessions, at random moments of their pauses.
NUM_PAIRS = 20_000


def survival_by_table(table: PauseTable, trace: Trace) -> NDArray[np.float64]:
    """P(T > e) on ``GRID_S`` for every pause of a trace by its tool, ``[num_pauses, NUM_BINS]``."""
    called = np.isfinite(trace.pause_s)
    rows = table.rows_for(trace.tools)[trace.tool[called]]
    level = np.arange(101) / 100.0
    below = np.stack([np.interp(GRID_S, q, level, left=0.0) for q in table.quantiles_s])
    return 1.0 - below[rows]


def survival_by_predictor(predictor: PausePredictor, trace: Trace) -> NDArray[np.float64]:
    """P(T > e) on ``GRID_S`` for every pause of a trace, shape ``[num_pauses, NUM_BINS]``."""
    return class_chances(predictor, trace) @ predictor.alive


def expected_remaining_s(
    predictor: PausePredictor, chances: NDArray[np.float64], elapsed_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What ``estimates.predicted_remaining_s`` says, for many: ``[n, num_classes]`` and ``[n]``."""
    alive = _on_grid(predictor.alive, elapsed_s).T
    excess_s = _on_grid(predictor.excess_s, elapsed_s).T
    remaining: NDArray[np.float64] = (chances * excess_s).sum(1) / (chances * alive).sum(1)
    return remaining


def pause_statistics(predictor: PausePredictor, table: PauseTable, trace: Trace) -> dict[str, Any]:
    """Figures of both on the pauses of a (held-out) trace, as JSON values.

    For ``table`` and ``predictor`` each: ``explained_variance`` of log pause, ``pinball`` loss of
    log pause by level, mean ``log_likelihood`` of the half-octave that a pause falls into,
    ``calibration`` (share of pauses below each predicted quantile), ``auc_long`` of lasting longer
    than ``LONG_S``, and ``ordering``: of two paused sessions at random moments the one expected to
    stay longer is taken; the seconds won over a coin, as a share of what the truth would win.

    Raises:
        InputError: the trace holds no pauses.
    """
    called = np.isfinite(trace.pause_s)
    pause_s = trace.pause_s[called]
    if not pause_s.size:
        raise InputError("no session pauses", path=trace.name)
    chances = class_chances(predictor, trace)
    rows = table.rows_for(trace.tools)[trace.tool[called]]
    picked, elapsed_s = _moments(pause_s)
    by_table = _on_grid(table.residual_s, elapsed_s)[rows[picked], np.arange(len(picked))]
    by_predictor = expected_remaining_s(predictor, chances[picked], elapsed_s)
    remaining_s = pause_s[picked] - elapsed_s
    figures = {
        "table": _figures(survival_by_table(table, trace), pause_s, predictor.floor_s)
        | {"ordering": _ordering(by_table, remaining_s)},
        "predictor": _figures(chances @ predictor.alive, pause_s, predictor.floor_s)
        | {"ordering": _ordering(by_predictor, remaining_s)},
    }
    return {
        "trace": trace.name,
        "num_sessions": trace.num_sessions,
        "num_pauses": int(pause_s.size),
        "floor_s": predictor.floor_s,
        **figures,
    }


def _figures(
    survival: NDArray[np.float64], pause_s: NDArray[np.float64], floor_s: float
) -> dict[str, Any]:
    log_s = np.log(np.maximum(pause_s, floor_s))
    # Bin 0 is everything below the first grid point after 0, the last one all beyond the grid.
    edges = np.log(GRID_S[1:])
    below = np.concatenate([1.0 - survival[:, 1:], np.ones((len(survival), 1))], axis=1)
    chance = np.diff(below, axis=1, prepend=0.0).clip(0.0) + SMOOTHING
    chance /= chance.sum(axis=1, keepdims=True)
    below = np.cumsum(chance, axis=1)
    width = edges[1] - edges[0]
    low = np.concatenate([[edges[0] - width], edges])
    mean_log = chance @ np.maximum(low + width / 2, np.log(floor_s))
    row = np.arange(len(log_s))
    bin_of = np.searchsorted(edges, log_s, side="right")
    pinball, calibration = {}, {}
    for level in LEVELS:
        bin_at = np.minimum((below < level).sum(axis=1), chance.shape[1] - 1)
        inside = (level - (below - chance)[row, bin_at]) / chance[row, bin_at]
        error = log_s - (low[bin_at] + width * inside)
        pinball[f"{level:g}"] = float(np.maximum(level * error, (level - 1.0) * error).mean())
        calibration[f"{level:g}"] = float((error < 0).mean())
    long_score = chance[:, np.searchsorted(edges, np.log(LONG_S), side="right") :].sum(axis=1)
    return {
        "explained_variance": float(1.0 - ((log_s - mean_log) ** 2).mean() / log_s.var()),
        "pinball": pinball,
        "log_likelihood": float(np.log(chance[row, bin_of]).mean()),
        "calibration": calibration,
        "auc_long": _auc(long_score, pause_s > LONG_S),
    }


def _auc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    # The chance that a long pause has the higher score than a short one; ties count one half.
    if positive.all() or not positive.any():
        return None
    long, short = np.sort(score[positive]), np.sort(score[~positive])
    wins = np.searchsorted(short, long, side="left") + np.searchsorted(short, long, side="right")
    return float(wins.sum() / 2.0 / (len(long) * len(short)))


def _moments(pause_s: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    # Pauses as one meets them: each as often as it is long, at a random moment.
    rng = np.random.default_rng(0)
    total = pause_s.sum()
    chance = pause_s / total if total > 0 else None
    picked = rng.choice(len(pause_s), 2 * NUM_PAIRS, p=chance)
    return picked, rng.random(len(picked)) * pause_s[picked]


def _ordering(expected_s: NDArray[np.float64], remaining_s: NDArray[np.float64]) -> float | None:
    (a, b), (left, right) = expected_s.reshape(2, -1), remaining_s.reshape(2, -1)
    coin = (left + right) / 2.0
    won = np.where(a == b, coin, np.where(a > b, left, right)) - coin
    possible = np.maximum(left, right) - coin
    return float(won.sum() / possible.sum()) if possible.sum() > 0 else None


def _on_grid(rows: NDArray[np.float64], elapsed_s: NDArray[np.float64]) -> NDArray[np.float64]:
    # Rows at many elapsed times, linear between grid points: [len(rows), len(elapsed_s)].
    beyond = np.maximum(elapsed_s, FIRST_S)
    x = np.where(elapsed_s <= FIRST_S, elapsed_s / FIRST_S, 1.0 + 2.0 * np.log2(beyond / FIRST_S))
    return np.stack([np.interp(x, np.arange(len(row)), row) for row in rows])
