"""Histograms of pauses that forget: one a tool, and one an engine for all its tools."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkv_service.pauses.bins import NUM_BINS, bin_of
from rlkv_service.pauses.key_rows import Key, KeyRows
from rlkv_service.pauses.laws import add_pause


class Sketches:
    """Weights of pauses by bin. What is added weighs 1, and less with everything that follows.

    Pauses of the same moment weigh the same: their order does not matter.

    Args:
        capacity: sketches; beyond it the least recently used one goes.
        memory: pauses that a sketch remembers, in the sense that it weighs as much as so many.
    """

    def __init__(self, capacity: int, memory: float) -> None:
        self.keys = KeyRows(capacity)
        self.weight: NDArray[np.float64] = np.zeros((capacity, NUM_BINS))
        self.sum_s: NDArray[np.float64] = np.zeros(capacity)  # of weight times pause
        self.sum_weight: NDArray[np.float64] = np.zeros(capacity)
        self.same_moment: NDArray[np.int64] = np.zeros(capacity, np.int64)  # added at used_ms
        self._kept = 1.0 - 1.0 / memory

    def row_of(self, key: Key) -> int:
        """The row of a key; -1 where there is none."""
        return self.keys.rows.get(key, -1)

    def add(self, key: Key, pause_s: float, at_ms: int) -> tuple[int, bool]:
        """Adds a pause that was over at a time; its row, and whether that is a new one."""
        row = self.row_of(key)
        is_new = row < 0
        if is_new:
            row, _ = self.keys.take(key)
            self.weight[row] = 0.0
            self.sum_s[row] = self.sum_weight[row] = self.same_moment[row] = 0
        kept = 1.0
        if at_ms != self.keys.used_ms[row]:
            kept = self._kept ** int(self.same_moment[row])
            self.same_moment[row] = 0
        add_pause(self.weight[row], bin_of(pause_s), kept)
        self.sum_s[row] = self.sum_s[row] * kept + pause_s
        self.sum_weight[row] = self.sum_weight[row] * kept + 1.0
        self.same_moment[row] += 1
        self.keys.use(row, at_ms)
        return row, is_new

    def mean_s(self, row: int) -> float:
        """The mean pause of a row that holds some, seconds."""
        return float(self.sum_s[row] / self.sum_weight[row])
