"""How well pauses are known: a table by tool and one by predicted class, on sessions new to both.

A table is asked for the whole distribution of every pause when it begins, as chances to last beyond
the times of ``estimates.GRID_S``; between two of them the logarithm is taken as uniform.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_engine.estimates import FIRST_S, GRID_S, HORIZON_PAUSES, PauseTable
from rlkv_engine.trace import Trace

LEVELS = (0.10, 0.25, 0.50, 0.75, 0.90)
#: "A long pause", seconds.
LONG_S = 30.0
#: Mixed into every bin before a logarithm is taken: an empty bin is not impossible.
SMOOTHING = 1e-4
#: Pairs of paused sessions, at random moments of their pauses.
NUM_PAIRS = 20_000


def survival(table: PauseTable) -> NDArray[np.float64]:
    """P(T > e) on ``GRID_S`` for every row of a table, shape ``[num_rows, NUM_BINS]``."""
    level = np.arange(101) / 100.0
    return 1.0 - np.stack([np.interp(GRID_S, q, level, left=0.0) for q in table.quantiles_s])


def pause_statistics(table: PauseTable, trace: Trace) -> dict[str, Any]:
    """Figures of a table on the pauses of a (held-out) trace, as JSON values.

    ``explained_variance`` of log pause, ``pinball`` loss of log pause by level, mean
    ``log_likelihood`` of the half-octave that a pause falls into, ``calibration`` (share of pauses
    below each predicted quantile), ``auc_long`` of lasting longer than ``LONG_S``; and at random
    moments of pauses ``remainder_variance``, the share of the variance of the remainder within the
    horizon that the table explains, and ``ordering``: of two paused sessions the one expected to
    stay longer is taken; the seconds won over a coin, as a share of what the truth would win.

    Raises:
        InputError: the trace holds no pauses.
    """
    called = np.isfinite(trace.pause_s)
    pause_s = trace.pause_s[called]
    if not pause_s.size:
        raise InputError("no session pauses", path=trace.name)
    row = table.turn_rows(trace)[called]
    horizon_s = HORIZON_PAUSES * table.mean_pause_s
    # Pauses as one meets them: each as often as it is long, at a random moment.
    rng = np.random.default_rng(0)
    total_s = pause_s.sum()
    chance = pause_s / total_s if total_s > 0 else None
    picked = rng.choice(len(pause_s), 2 * NUM_PAIRS, p=chance)
    elapsed_s = rng.random(len(picked)) * pause_s[picked]
    left_s = np.minimum(pause_s[picked] - elapsed_s, horizon_s)
    said_s = _remaining_s(table, row[picked], elapsed_s)
    error = ((left_s - said_s) ** 2).mean()
    spread = left_s.var()
    return {
        "trace": trace.name,
        "num_sessions": trace.num_sessions,
        "num_pauses": int(pause_s.size),
        "num_classes": len(table.mean_s) - 1,
        **_figures(survival(table), row, pause_s),
        "remainder_variance": float(1.0 - error / spread) if spread > 0 else None,
        "ordering": _ordering(said_s, left_s),
    }


def _figures(
    survival: NDArray[np.float64], row: NDArray[np.int64], pause_s: NDArray[np.float64]
) -> dict[str, Any]:
    # Below the first percentile differences are those of the clock that recorded them.
    floor_s = max(float(np.percentile(pause_s, 1)), FIRST_S)
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
    bin_of = np.searchsorted(edges, log_s, side="right")
    pinball, calibration = {}, {}
    for level in LEVELS:
        at = np.minimum((below < level).sum(axis=1), chance.shape[1] - 1)
        rows = np.arange(len(chance))
        inside = (level - (below - chance)[rows, at]) / chance[rows, at]
        error = log_s - (low[at] + width * inside)[row]
        pinball[f"{level:g}"] = float(np.maximum(level * error, (level - 1.0) * error).mean())
        calibration[f"{level:g}"] = float((error < 0).mean())
    long_score = chance[:, np.searchsorted(edges, np.log(LONG_S), side="right") :].sum(axis=1)
    variance = log_s.var()
    explained = 1.0 - ((log_s - mean_log[row]) ** 2).mean() / variance if variance > 0 else None
    return {
        "explained_variance": None if explained is None else float(explained),
        "pinball": pinball,
        "log_likelihood": float(np.log(chance[row, bin_of]).mean()),
        "calibration": calibration,
        "auc_long": _auc(long_score[row], pause_s > LONG_S),
    }


def _auc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    # The chance that a long pause has the higher score than a short one; ties count one half.
    if positive.all() or not positive.any():
        return None
    long, short = np.sort(score[positive]), np.sort(score[~positive])
    wins = np.searchsorted(short, long, side="left") + np.searchsorted(short, long, side="right")
    return float(wins.sum() / 2.0 / (len(long) * len(short)))


def _ordering(said_s: NDArray[np.float64], left_s: NDArray[np.float64]) -> float | None:
    (a, b), (left, right) = said_s.reshape(2, -1), left_s.reshape(2, -1)
    coin = (left + right) / 2.0
    won = np.where(a == b, coin, np.where(a > b, left, right)) - coin
    possible = np.maximum(left, right) - coin
    return float(won.sum() / possible.sum()) if possible.sum() > 0 else None


def _remaining_s(
    table: PauseTable, row: NDArray[np.int64], elapsed_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    # ``estimates.table_remaining_s`` of many: linear between grid points, shape of ``row``.
    beyond = np.maximum(elapsed_s, FIRST_S)
    x = np.where(elapsed_s <= FIRST_S, elapsed_s / FIRST_S, 1.0 + 2.0 * np.log2(beyond / FIRST_S))
    x = np.minimum(x, len(GRID_S) - 1.0)
    low = np.minimum(x.astype(np.int64), len(GRID_S) - 2)
    part = x - low
    said_s: NDArray[np.float64] = table.residual_s[row, low] * (1.0 - part)
    said_s += table.residual_s[row, low + 1] * part
    return said_s
