"""What the probability of a verb means: how often such a verb was no worse than the rule's.

A bundle may carry ``reliability`` in its metadata: rows of ``rlkv bundle calibrate``, each a bin of
the probability (``low``, ``high``), the departures from the rule that were tried in it (``num``),
and the share of them that cost more than the rule's verb (``worse``). Without it the probability
itself stands for the confidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError

#: Where a bundle's metadata has the rows.
RELIABILITY = "reliability"


class _Bin(msgspec.Struct):
    low: float
    high: float
    num: int
    worse: float


class Calibration:
    """Maps probabilities to confidences; never falls with the probability.

    Args:
        metadata: of a bundle.

    Raises:
        InputError: its rows of reliability cannot be read.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        try:
            bins = msgspec.convert(metadata.get(RELIABILITY, []), list[_Bin])
        except msgspec.ValidationError as error:
            raise InputError(f"{RELIABILITY}: {error}") from error
        for each in bins:
            shares = (each.low, each.high, each.worse)
            if not all(0.0 <= share <= 1.0 for share in shares) or each.num < 1:
                raise InputError(
                    f"{RELIABILITY}: a bin of {each.num} from {each.low} to {each.high}"
                )
        bins.sort(key=lambda each: each.low)
        self._centre = np.array([0.5 * (each.low + each.high) for each in bins])
        # One more that was good and one that was not: few tries prove little.
        num = np.array([each.num + 2.0 for each in bins])
        good = np.array([each.num * (1.0 - each.worse) + 1.0 for each in bins])
        self._confidence = _never_falling(good / num, num)

    @property
    def is_raw(self) -> bool:
        """Whether the bundle says nothing, and the probability stands for itself."""
        return not len(self._centre)

    def __call__(self, probability: NDArray[np.float64]) -> NDArray[np.float64]:
        """Confidences, shape as the probabilities', between the centres of the bins linear."""
        if self.is_raw:
            return probability
        return np.asarray(np.interp(probability, self._centre, self._confidence))


def _never_falling(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The nearest values that never fall: neighbours that do are pooled (Ayer et al., 1955)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, number
    for value, weight in zip(values, weights, strict=True):
        pools.append((float(value), float(weight), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, much, many), (other_mean, other_much, others) = pools[-2], pools[-1]
            both = much + other_much
            pools[-2:] = [((mean * much + other_mean * other_much) / both, both, many + others)]
    return np.array([mean for mean, _, number in pools for _ in range(number)])
