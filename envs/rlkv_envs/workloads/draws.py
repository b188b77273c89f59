"""Random draws that several workloads share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def clipped_lognormal_tokens(
    rng: np.random.Generator, table: Mapping[str, Any], key: str, size: int
) -> NDArray[np.int64]:
    """Whole token counts from the entries ``key``, ``key_median`` and ``key_sigma`` of a table.

    ``table[key]`` is ``[lowest, highest]``. Shape ``[size]``.
    """
    low, high = table[key]
    drawn: NDArray[np.float64] = table[f"{key}_median"] * np.exp(
        table[f"{key}_sigma"] * rng.standard_normal(size)
    )
    tokens: NDArray[np.int64] = np.clip(np.rint(drawn), low, high).astype(np.int64)
    return tokens


def draw_counts(
    rng: np.random.Generator, counts: Mapping[str, float], size: int
) -> NDArray[np.int64]:
    """Whole numbers drawn with the weights of a table ``{number: weight}``. Shape ``[size]``."""
    numbers = np.array([int(number) for number in counts], np.int64)
    weights = np.cumsum(list(counts.values()), dtype=np.float64)
    position = np.searchsorted(weights, rng.random(size) * weights[-1], side="right")
    drawn: NDArray[np.int64] = numbers[np.minimum(position, len(numbers) - 1)]
    return drawn


def human_pauses_s(
    rng: np.random.Generator,
    human: Mapping[str, float],
    read_tokens: NDArray[np.int64],
    typed_tokens: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Seconds that a person reads and types, with noise and a cap; the shape of the tokens."""
    mean_s = human["read_s_per_token"] * read_tokens + human["type_s_per_token"] * typed_tokens
    noise = np.exp(human["noise_sigma"] * rng.standard_normal(read_tokens.shape))
    pauses_s: NDArray[np.float64] = np.minimum(mean_s * noise, human["max_s"])
    return pauses_s


def session_scores(
    rng: np.random.Generator, position: NDArray[np.int64], session_variance_ratio: float
) -> NDArray[np.float64]:
    """Standard normal scores of turns, with a share of their variance common to a session.

    ``position`` is each turn's place in its session, sessions one after another. Shape
    ``[num_turns]``.
    """
    size = len(position)
    first = np.maximum.accumulate(np.where(position == 0, np.arange(size), 0))
    common = rng.standard_normal(size)[first]
    own = rng.standard_normal(size)
    scores: NDArray[np.float64] = (
        math.sqrt(session_variance_ratio) * common + math.sqrt(1 - session_variance_ratio) * own
    )
    return scores
