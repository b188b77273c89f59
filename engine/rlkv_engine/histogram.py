"""Histograms of durations: the same memory however many there are, and quantiles to 1 %.

Bins lie evenly in the logarithm from ``LOW_S`` to ``HIGH_S``, each 1.006 % wide. Count and sum are
exact. A quantile is that of ``numpy.quantile`` with every duration put somewhere in its bin: where
all of them lie between the two ends it is off by less than a bin's width, 1.006 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit

LOW_S, HIGH_S = 1e-4, 1e6
BINS_PER_DECADE = 230
#: The first bin is for what is below LOW_S, the last for what is not below HIGH_S.
NUM_BINS = 10 * BINS_PER_DECADE + 2
#: Ends of the bins; what lies beyond the last is taken for HIGH_S.
EDGES_S: NDArray[np.float64] = np.concatenate(
    [[0.0], LOW_S * 10.0 ** (np.arange(NUM_BINS - 1) / BINS_PER_DECADE), [HIGH_S]]
)
#: Numbers of a histogram as a row: the sum, then the count of each bin.
ROW = 1 + NUM_BINS


@jit
def add_duration(row: NDArray[np.float64], duration_s: float) -> None:
    """Count one duration in a histogram of shape ``[ROW]``."""
    row[0] += duration_s
    if duration_s < LOW_S:
        k = 0
    elif duration_s < HIGH_S:
        # Rounding may lead out of the range next to HIGH_S.
        k = min(1 + int(math.log10(duration_s / LOW_S) * BINS_PER_DECADE), NUM_BINS - 2)
    else:
        k = NUM_BINS - 1
    row[1 + k] += 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Durations in seconds, or in seconds per token: how many lie where, and their sum."""

    row: NDArray[np.float64]  # [ROW]

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.row + other.row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and np.array_equal(self.row, other.row)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.row[1:].sum())

    @property
    def mean_s(self) -> float:
        """Their mean; NaN of nothing."""
        return float(self.row[0] / self.count) if self.count else math.nan

    def quantiles_s(self, parts: list[float]) -> list[float]:
        """The quantiles for parts from 0 to 1, between two durations linearly; NaN of nothing."""
        if not self.count:
            return [math.nan] * len(parts)
        rank = np.array(parts) * (self.count - 1)
        below = np.floor(rank)
        low_s, high_s = self._in_order_s(below), self._in_order_s(np.ceil(rank))
        return [float(s) for s in low_s + (rank - below) * (high_s - low_s)]

    def _in_order_s(self, index: NDArray[np.float64]) -> NDArray[np.float64]:
        # The durations that would stand there if all were sorted: those of a bin fill it evenly.
        counts = self.row[1:]
        up_to = np.cumsum(counts)
        k = np.searchsorted(up_to, index, side="right")
        part = (index - (up_to[k] - counts[k]) + 0.5) / counts[k]
        return np.asarray(EDGES_S[k] + part * (EDGES_S[k + 1] - EDGES_S[k]))
