"""Evolution strategies (Salimans et al., 2017): antithetic noise, ranks instead of values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def antithetic(
    rng: np.random.Generator, num_pairs: int, shape: Sequence[int]
) -> NDArray[np.float32]:
    """Standard normal noise, shape ``[2 num_pairs, *shape]``; the second half is minus the first.

    What a parameter does on its own then cancels out of the estimate of the slope.
    """
    half = rng.standard_normal((num_pairs, *shape), dtype=np.float32)
    return np.concatenate([half, -half])


def centred_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """-0.5 for the lowest value to 0.5 for the highest, equal values alike; shape ``[num]``.

    One member that thrashes counts no more than one that is merely the worst.
    """
    order = np.sort(values)
    first = np.searchsorted(order, values, side="left")
    last = np.searchsorted(order, values, side="right") - 1
    highest = max(len(values) - 1, 1)
    ranks: NDArray[np.float64] = (first + last) / 2.0 / highest - 0.5
    return ranks


def slope(
    noise: NDArray[np.float32], costs: NDArray[np.float64], noise_std: float
) -> NDArray[np.float32]:
    """Estimate of the gradient of the ranked costs, shape of one member's noise.

    Args:
        noise: standard normal, ``[num, ...]``.
        costs: of the member moved by ``noise_std`` times its noise, ``[num]``.
        noise_std: of the parameters.
    """
    ranks = centred_ranks(costs).astype(np.float32)
    estimate = np.tensordot(ranks, noise, axes=1) / (len(ranks) * noise_std)
    return np.asarray(estimate, np.float32)
