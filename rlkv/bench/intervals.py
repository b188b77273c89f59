"""95 % intervals over a few repetitions, by Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Interval = tuple[float, float]


def mean_interval(values: Sequence[float]) -> tuple[float, Interval | None]:
    """The mean and its interval; none of a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, (mean - half, mean + half)


def ratio_interval(
    values: Sequence[float], against: Sequence[float]
) -> tuple[float, Interval | None]:
    """The geometric mean of paired ratios of positive values, and its interval."""
    logs = [math.log(a / b) for a, b in zip(values, against, strict=True)]
    mean, interval = mean_interval(logs)
    if interval is None:
        return math.exp(mean), None
    return math.exp(mean), (math.exp(interval[0]), math.exp(interval[1]))
