"""A tanh network on many observations: in float32 where the answer is clear, else in float64.

The greedy verb is the one that the engine's own float64 network takes (``rlkv_engine.mlp``): how
far float32 may be off is bounded from the weights, and rows whose best two logits are nearer to
each other than that are computed again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.inference import BatchInference
from rlkv_agents.policy import NUM_VERBS, AgentPolicy
from rlkv_service.deciding.compiled_rows import UNCLEAR, greedy

#: Relative error of one rounding in float32.
_UNIT = 2.0**-24
#: Absolute error of NumPy's tanh in float32, whose values are at most 1: 4 units in the last place.
_TANH_ERROR = 8.0 * _UNIT


class Network:
    """The network of a policy, which must have one. For several threads."""

    def __init__(self, policy: AgentPolicy) -> None:
        assert policy.weights is not None
        self._exact = BatchInference(policy)
        w1, b1, w2, b2, w3, b3 = (np.asarray(each, np.float32) for each in policy.weights)
        self._layers = tuple(
            (np.ascontiguousarray(weight.T), bias)
            for weight, bias in ((w1, b1), (w2, b2), (w3, b3))
        )
        self._prior = np.float32(policy.prior)
        self._min_confidence = policy.min_confidence
        self._error = _error_bound(policy)

    def __call__(
        self, rows: NDArray[np.float32], swap_legal: NDArray[np.bool_], largest: float
    ) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        """Greedy verbs ``[n]`` and their probabilities ``[n]``.

        Args:
            rows: observations ``[n, num_features]``.
            swap_legal: where SWAP may be answered, ``[n]``.
            largest: size of the largest number in the rows that matter.
        """
        verb, probability = np.empty(len(rows), np.int8), np.empty(len(rows))
        constant, slope = self._error
        off, least = constant + slope * largest, self._min_confidence
        if greedy(self._logits(rows), swap_legal, off, least, verb, probability):
            again = np.flatnonzero(verb == UNCLEAR)
            exact_verb, exact = np.empty(len(again), np.int8), np.empty(len(again))
            logits = self._exact.logits(rows[again])
            greedy(logits, swap_legal[again], 0.0, least, exact_verb, exact)
            verb[again], probability[again] = exact_verb, exact
        return verb, probability

    def _logits(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        (w1, b1), (w2, b2), (w3, b3) = self._layers
        x: NDArray[np.float32] = rows @ w1
        x += b1
        np.tanh(x, out=x)
        x = x @ w2
        x += b2
        np.tanh(x, out=x)
        logits: NDArray[np.float32] = x @ w3
        logits += b3
        logits += self._prior * rows[:, -NUM_VERBS:]
        return logits


def _error_bound(policy: AgentPolicy) -> tuple[float, float]:
    """How far a logit in float32 may be off: a constant, and that for each unit of the inputs.

    Rounding of inner products as in Higham, Accuracy and Stability of Numerical Algorithms (2002),
    section 3.1, for any order of the sum; tanh does not enlarge an error.
    """
    assert policy.weights is not None
    constant = slope = norm = bias = 0.0
    for layer in range(3):
        weights, biases = policy.weights[2 * layer : 2 * layer + 2]
        num = weights.shape[1] + 3.0
        rounding = num * _UNIT / (1.0 - num * _UNIT)
        norm, bias = float(np.abs(weights).sum(axis=1).max()), float(np.abs(biases).max())
        # Inputs of the first layer are as large as they are, those of the others at most 1.
        slope = norm * slope + rounding * norm * (layer == 0)
        constant = norm * constant + rounding * (norm * (layer > 0) + bias)
        constant += _TANH_ERROR * (layer < 2)
    return constant + 4.0 * _UNIT * (norm + bias + policy.prior), slope
