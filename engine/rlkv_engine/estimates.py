"""What is known of a pause while it lasts: the expected remainder, by tool and elapsed time.

The table holds the mean residual life of each tool within a horizon, ``E[min(T - e, h) | T > e]``,
on a grid of elapsed times ``e``, fitted on training sessions. Row ``num_tools`` is for all tools
together, and serves tools that the training sessions do not have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit
from rlkv_engine.state import NOW, PAUSE_START, RETURN_AT, TOOL, TURN, State
from rlkv_engine.trace import Trace

#: Elapsed times of the grid: 0, then FIRST_S * 2 ** (k / 2).
FIRST_S = 0.01
NUM_BINS = 42
GRID_S: NDArray[np.float64] = np.concatenate(
    [[0.0], FIRST_S * 2.0 ** (np.arange(NUM_BINS - 1) / 2)]
)
#: The horizon ``h`` in mean pauses: what a pause lasts beyond it changes no decision now
#: (docs/decisions/0012-pauses-within-a-horizon.md).
HORIZON_PAUSES = 4.0
#: Calls a tool needs before its own row is used instead of the row of all tools.
MIN_CALLS = 8

# How a rule estimates the remainder of a pause.
BY_TOOL, BY_ELAPSED, BY_TRUTH = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class PauseTable:
    """Pause statistics of training sessions; index ``len(tools)`` is all tools together."""

    tools: tuple[str, ...]
    residual_s: NDArray[np.float64]  # [num_tools + 1, NUM_BINS]
    mean_s: NDArray[np.float64]  # [num_tools + 1]
    quantiles_s: NDArray[np.float64]  # [num_tools + 1, 101]: 0 %, 1 %, ... 100 %

    @property
    def mean_pause_s(self) -> float:
        """Mean over all calls, seconds; the unit of time of a workload."""
        return float(self.mean_s[-1])

    def rows_for(self, tools: tuple[str, ...]) -> NDArray[np.int64]:
        """Row of each of another trace's tools, shape ``[len(tools) + 1]``."""
        index = {tool: row for row, tool in enumerate(self.tools)}
        every = len(self.tools)
        return np.array([index.get(tool, every) for tool in tools] + [every], np.int64)


def fit_pause_table(trace: Trace) -> PauseTable:
    """Mean residual life within the horizon and quantiles by tool, from a (training) trace."""
    called = np.isfinite(trace.pause_s)
    pauses, tools = trace.pause_s[called], trace.tool[called]
    rows = [pauses[tools == tool] for tool in range(len(trace.tools))] + [pauses]
    rows = [row if row.size >= MIN_CALLS else pauses for row in rows]
    if not pauses.size:
        rows = [np.ones(1) for _ in rows]
    horizon_s = HORIZON_PAUSES * float(rows[-1].mean())
    return PauseTable(
        tools=trace.tools,
        residual_s=np.stack([_mean_residual_s(np.sort(row), horizon_s) for row in rows]),
        mean_s=np.array([row.mean() for row in rows]),
        quantiles_s=np.stack([np.percentile(row, np.arange(101)) for row in rows]),
    )


def _mean_residual_s(ascending_s: NDArray[np.float64], horizon_s: float) -> NDArray[np.float64]:
    # Those that end within the horizon count as what is left of them, the others as the horizon.
    # Beyond the longest observed pause a heavy tail is assumed: as long again as it has lasted.
    sums = np.concatenate([[0.0], np.cumsum(ascending_s)])
    over = np.searchsorted(ascending_s, GRID_S, side="right")
    beyond = np.searchsorted(ascending_s, GRID_S + horizon_s, side="right")
    counts = len(ascending_s) - over
    total = sums[beyond] - sums[over] - GRID_S * (beyond - over)
    total += horizon_s * (len(ascending_s) - beyond)
    residual = np.where(counts > 0, total / np.maximum(counts, 1), 0.0)
    few = counts < 3
    residual[few] = np.maximum(residual[few], np.maximum(GRID_S[few], 1e-3))
    return np.clip(residual, 1e-6, horizon_s)


@jit
def table_remaining_s(residual_s: NDArray[np.float64], row: int, elapsed_s: float) -> float:
    """Expected remainder of a pause of ``row`` after ``elapsed_s``, linear between grid points."""
    if elapsed_s <= FIRST_S:
        x = elapsed_s / FIRST_S
    else:
        x = 1.0 + 2.0 * math.log2(elapsed_s / FIRST_S)
    last = residual_s.shape[1] - 1
    if x >= last:
        return residual_s[row, last]
    low = int(x)
    part = x - low
    return residual_s[row, low] * (1.0 - part) + residual_s[row, low + 1] * part


@jit
def remaining_s(st: State, s: int, how: int) -> float:
    """Estimated remaining pause of a paused slot, seconds, by tool, elapsed time or the truth."""
    elapsed = st.f[NOW] - st.real[PAUSE_START, s]
    if how == BY_TRUTH:
        return st.real[RETURN_AT, s] - st.f[NOW]
    if how == BY_ELAPSED:
        return elapsed
    return table_remaining_s(st.residual_s, st.turns[TOOL, st.slot[TURN, s]], elapsed)
