"""A distribution given by a few of its quantiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class QuantileTable:
    """Maps standard normal scores to values: log value is piecewise linear in the score.

    Two quantiles make a log-normal; more of them bend it, to two humps or a heavy tail. Beyond
    the outermost quantiles the outermost lines go on.

    Attributes:
        scores: ascending normal scores of the levels, shape ``[num_levels]``.
        log_values: ascending natural logarithms, shape ``[num_levels]``.
    """

    scores: NDArray[np.float64]
    log_values: NDArray[np.float64]

    @classmethod
    def from_quantiles(cls, levels: Sequence[float], values: Sequence[float]) -> QuantileTable:
        """Builds the table from probabilities and the values they have."""
        normal = NormalDist()
        scores = np.array([normal.inv_cdf(level) for level in levels])
        return cls(scores, np.log(np.asarray(values, np.float64)))

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], levels: Sequence[float]) -> QuantileTable:
        """Reads ``{values[, levels]}`` or ``{median, sigma}`` (a log-normal) of a table.

        ``levels`` stand in where the entry has none.
        """
        if "median" in entry:
            center, sigma = math.log(entry["median"]), float(entry["sigma"])
            return cls(np.array([-1.0, 1.0]), np.array([center - sigma, center + sigma]))
        return cls.from_quantiles(entry.get("levels", levels), entry["values"])

    def tokens(self, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Whole values at normal scores, at least 1 and at most twice the last quantile."""
        highest = 2.0 * np.exp(self.log_values[-1])
        return np.clip(np.rint(self.at(scores)), 1, highest).astype(np.int64)

    def at(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values at normal scores, any shape."""
        inside = np.clip(scores, self.scores[0], self.scores[-1])
        log_values = np.interp(inside, self.scores, self.log_values)
        below, above = np.minimum(scores - self.scores[0], 0), scores - self.scores[-1]
        log_values += below * self._slope(0, 1) + np.maximum(above, 0) * self._slope(-2, -1)
        return np.exp(log_values)

    def _slope(self, low: int, high: int) -> float:
        rise = self.log_values[high] - self.log_values[low]
        return float(rise / (self.scores[high] - self.scores[low]))
