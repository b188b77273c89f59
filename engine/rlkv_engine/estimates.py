"""What is known of a pause while it lasts: the expected remainder, by its kind and elapsed time.

The table holds the mean residual life of each kind of pause within a horizon,
``E[min(T - e, h) | T > e]``, on a grid of elapsed times ``e``, fitted on training sessions. Kinds
are tools, or the classes of a predictor; the last row is for all pauses together, and serves tools
that the training sessions do not have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

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


class PauseClasses(Protocol):
    """Says of each pause which row of a table it belongs to, from what is known as it begins."""

    def turn_rows(self, trace: Trace) -> NDArray[np.int64]:
        """Row of the pause after each turn, shape ``[num_turns]``; -1 after last turns."""


@dataclass(frozen=True, slots=True, eq=False)
class PauseTable:
    """Pause statistics of training sessions; the last row is all pauses together.

    The other rows are the tools, in their order, or the classes of a predictor.
    """

    tools: tuple[str, ...]
    residual_s: NDArray[np.float64]  # [num_rows, NUM_BINS]
    mean_s: NDArray[np.float64]  # [num_rows]
    quantiles_s: NDArray[np.float64]  # [num_rows, 101]: 0 %, 1 %, ... 100 %
    #: What chooses the row of a pause; None: its tool does.
    classes: PauseClasses | None = None

    @property
    def mean_pause_s(self) -> float:
        """Mean over all calls, seconds; the unit of time of a workload."""
        return float(self.mean_s[-1])

    def rows_for(self, tools: tuple[str, ...]) -> NDArray[np.int64]:
        """By tool: row of each of another trace's tools, shape ``[len(tools) + 1]``."""
        index = {tool: row for row, tool in enumerate(self.tools)}
        every = len(self.tools)
        return np.array([index.get(tool, every) for tool in tools] + [every], np.int64)

    def turn_rows(self, trace: Trace) -> NDArray[np.int64]:
        """Row of the pause after each turn of a trace, shape ``[num_turns]``; -1 after last turns.

        Of a pause it depends on nothing that is known only after it has begun.
        """
        if self.classes is not None:
            return self.classes.turn_rows(trace)
        return np.where(trace.tool >= 0, self.rows_for(trace.tools)[trace.tool], -1)


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
        residual_s=np.stack([mean_residual_s(np.sort(row), horizon_s) for row in rows]),
        mean_s=np.array([row.mean() for row in rows]),
        quantiles_s=np.stack([np.percentile(row, np.arange(101)) for row in rows]),
    )


def mean_residual_s(
    ascending_s: NDArray[np.float64], horizon_s: float, weight: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Mean residual life within the horizon on ``GRID_S``, shape ``[NUM_BINS]``.

    Args:
        ascending_s: pauses, sorted.
        horizon_s: what a pause lasts beyond it does not count.
        weight: how much each pause counts; None: all alike.
    """
    # Those that end within the horizon count as what is left of them, the others as the horizon.
    # Beyond the longest observed pause a heavy tail is assumed: as long again as it has lasted.
    if weight is None:
        weight = np.ones(len(ascending_s))
    sums = np.concatenate([[0.0], np.cumsum(weight * ascending_s)])
    counts = np.concatenate([[0.0], np.cumsum(weight)])
    over = np.searchsorted(ascending_s, GRID_S, side="right")
    beyond = np.searchsorted(ascending_s, GRID_S + horizon_s, side="right")
    left = counts[-1] - counts[over]
    total = sums[beyond] - sums[over] - GRID_S * (counts[beyond] - counts[over])
    total += horizon_s * (counts[-1] - counts[beyond])
    some = left > 1e-9 * counts[-1]
    residual = np.where(some, total / np.where(some, left, 1.0), 0.0)
    few = len(ascending_s) - over < 3
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
