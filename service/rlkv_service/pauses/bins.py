"""Bins of durations, even in the logarithm: 1 ms to 11.6 days, each 4.7 % wide."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

LOW_S: Final = 1e-3
HIGH_S: Final = 1e6
BINS_PER_DECADE: Final = 50
#: The first bin is for what is below LOW_S; what is not below HIGH_S is put into the last.
NUM_BINS: Final = 1 + 9 * BINS_PER_DECADE
NUM_EDGES: Final = NUM_BINS + 1


def edges_s() -> NDArray[np.float64]:
    """Where the bins begin, and where the last one ends, shape ``[NUM_EDGES]``."""
    return np.concatenate([[0.0], LOW_S * 10.0 ** (np.arange(NUM_BINS) / BINS_PER_DECADE)])


def bin_of(duration_s: float) -> int:
    """The bin of a duration of 0 or more."""
    if duration_s < LOW_S:
        return 0
    if duration_s >= HIGH_S:
        return NUM_BINS - 1
    # Rounding may lead out of the range next to HIGH_S.
    return min(1 + int(math.log10(duration_s / LOW_S) * BINS_PER_DECADE), NUM_BINS - 1)
