"""The cost model of a profile, fitted to measured iterations and copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from rlkv_engine.errors import InputError
from rlkv_engine.paged.measuring import CopySample, IterationSample

#: Times the weights are taken from the fit before; it stands still after two or three.
_ROUNDS = 8
#: Costs without which there is no fit: the first ones.
_NUM_ALWAYS = 5
#: A cost that must be above 0 in a profile is at least this, seconds.
_SMALLEST_S = 1e-9


#: Fields of a profile that are fitted to iterations, in the order of their terms.
COSTS = (
    "iteration_s",
    "prefill_token_s",
    "prefill_token_context_s",
    "decode_session_s",
    "kv_token_s",
    "prefill_iteration_s",
    "wake_s",
    "copy_iteration_s",
    "copy_block_s",
    "copy_only_iteration_s",
)


@dataclass(frozen=True, slots=True)
class IterationFit:
    """Costs of an iteration (``Profile``), and how well they tell what was measured."""

    costs: NDArray[np.float64]  # [num_costs], in the order of COSTS
    measured_s: NDArray[np.float64]  # [num_samples]
    predicted_s: NDArray[np.float64]  # [num_samples]

    def predict_s(self, samples: Sequence[IterationSample]) -> NDArray[np.float64]:
        """What iterations take by these costs, seconds, shape ``[num_samples]``."""
        return np.array([_terms(sample) for sample in samples], np.float64) @ self.costs

    @property
    def error_ratio(self) -> float:
        """Mean absolute error of an iteration as a share of what it is predicted to take."""
        return float(np.mean(np.abs(self.measured_s / self.predicted_s - 1.0)))

    @property
    def total_ratio(self) -> float:
        """Predicted time of all samples together over measured."""
        return float(self.predicted_s.sum() / self.measured_s.sum())


@dataclass(frozen=True, slots=True)
class CopyFit:
    """Bandwidth of both directions and what a copy takes to start."""

    out_bytes_per_s: float
    in_bytes_per_s: float
    latency_s: float


def fit_iterations(samples: Sequence[IterationSample]) -> IterationFit:
    """Non-negative least squares on relative errors.

    The weights are those of the predicted times, not of the measured ones: dividing by what was
    measured would make slow outliers count less than fast ones, and every prediction too short.

    Raises:
        InputError: there are too few samples to tell the terms apart.
    """
    terms = np.array([_terms(sample) for sample in samples], np.float64)
    took_s = np.array([s.took_s for s in samples])
    # Where nothing is copied, what copies cost does not show.
    shows = (terms != 0.0).any(axis=0) | (np.arange(len(COSTS)) < _NUM_ALWAYS)
    num_terms = int(shows.sum())
    if len(samples) < 2 * num_terms or np.linalg.matrix_rank(terms[:, shows]) < num_terms:
        raise InputError(f"{len(samples)} iterations are too few to fit the cost of one")
    predicted_s = np.full(len(samples), took_s.mean())
    scale = np.where(shows, terms.max(axis=0), 1.0)
    for _ in range(_ROUNDS):
        costs, _residual = nnls(terms / scale / predicted_s[:, None], took_s / predicted_s)
        predicted_s = np.maximum(terms / scale @ costs, _SMALLEST_S)
    costs = costs / scale
    costs[:2] = np.maximum(costs[:2], _SMALLEST_S)
    return IterationFit(costs, took_s, predicted_s)


def _terms(sample: IterationSample) -> tuple[float, ...]:
    # In the order of COSTS.
    if not sample.has_batch:
        return (*(0.0,) * (len(COSTS) - 1), 1.0)
    return (
        1.0,
        sample.prefill_tokens,
        sample.token_contexts,
        sample.num_decode,
        sample.kv_tokens,
        sample.prefill_tokens > 0,
        sample.woken,
        sample.copied_blocks > 0,
        sample.copied_blocks,
        0.0,
    )


def fit_copies(samples: Sequence[CopySample], block_bytes: int) -> CopyFit:
    """Bandwidths, and one latency for both directions, from medians of equal copies."""
    rows, medians = [], []
    for out in (True, False):
        for size in sorted({s.num_blocks for s in samples if s.out == out}):
            took_s = np.median([s.took_s for s in samples if s.out == out and s.num_blocks == size])
            rows.append((1.0, size * out, size * (not out)))
            medians.append(float(took_s))
    terms, took = np.array(rows, np.float64), np.array(medians)
    if len(rows) < terms.shape[1]:
        raise InputError(f"{len(rows)} sizes of copies are too few to fit their cost")
    (latency_s, out_s, in_s), _residual = nnls(terms / took[:, None], np.ones(len(took)))
    return CopyFit(
        block_bytes / max(out_s, _SMALLEST_S), block_bytes / max(in_s, _SMALLEST_S), latency_s
    )
