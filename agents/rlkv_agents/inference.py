"""A policy's answers to many decisions at once, in NumPy alone.

The same numbers as ``rlkv_engine.mlp``, for whoever asks from outside of the engine's loop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.policy import NUM_VERBS, AgentPolicy
from rlkv_engine.errors import InputError
from rlkv_engine.observe import NUM_FEATURES

#: Of verbs with equal logits the first of these is answered, as in the engine.
_PREFERENCE = np.array([0, 2, 1])


class Answers(NamedTuple):
    """One answer a row."""

    verb: NDArray[np.int64]  # [num]
    probability: NDArray[np.float64]  # [num, 3]; all on the rule's verb where the rule answers
    by_rule: NDArray[np.bool_]  # [num], outside of what was trained on, or where unsure


class BatchInference:
    """Answers rows of observations as the policy would inside an engine.

    Args:
        policy: a rule (which answers with the verb that the observations say is its own) or a
            network on one.
    """

    def __init__(self, policy: AgentPolicy) -> None:
        self._prior, self._min_confidence = policy.prior, policy.min_confidence
        self._weights = None
        if policy.weights is not None:
            w1, b1, w2, b2, w3, b3 = (np.asarray(each, np.float64) for each in policy.weights)
            self._weights = (np.ascontiguousarray(w1.T), b1, np.ascontiguousarray(w2.T), b2,
                             np.ascontiguousarray(w3.T), b3)  # fmt: skip
        self._range = policy.trained_range

    def __call__(self, rows: NDArray[np.float32], masks: NDArray[np.bool_]) -> Answers:
        """Greedy verbs and the probabilities of all verbs.

        Args:
            rows: observations, ``[num, num_features]``.
            masks: where a verb is legal, ``[num, 3]``; PRESERVE and DISCARD always are.

        Raises:
            InputError: arrays of other shapes.
        """
        if rows.ndim != 2 or rows.shape[1] != NUM_FEATURES:
            raise InputError(f"observations of shape {rows.shape}, not [num, {NUM_FEATURES}]")
        if masks.shape != (len(rows), NUM_VERBS):
            raise InputError(f"masks of shape {masks.shape} for {len(rows)} observations")
        rule = rows[:, -NUM_VERBS:]
        # Whatever is neither PRESERVE nor SWAP is DISCARD, as in the engine.
        rule_verb = np.where(rule[:, 0] == 1.0, 0, np.where(rule[:, 1] == 1.0, 1, 2))
        by_rule = self._outside(rows)
        if self._weights is None:
            verb, probability = rule_verb, np.eye(NUM_VERBS)[rule_verb]
            return Answers(verb, probability, by_rule)
        logits = np.where(masks, self.logits(rows), -np.inf)
        verb = _PREFERENCE[logits[:, _PREFERENCE].argmax(axis=1)]
        probability = np.exp(logits - logits.max(axis=1, keepdims=True))
        probability /= probability.sum(axis=1, keepdims=True)
        if self._min_confidence > 0.0:
            unsure = probability.max(axis=1) < self._min_confidence
            by_rule = by_rule | ((verb != rule_verb) & unsure)
        if by_rule.any():
            verb = np.where(by_rule, rule_verb, verb)
            probability[by_rule] = np.eye(NUM_VERBS)[rule_verb[by_rule]]
        return Answers(verb, probability, by_rule)

    def logits(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of the network with its prior, legal or not; shape ``[num, 3]``.

        Raises:
            InputError: the policy is a plain rule.
        """
        if self._weights is None:
            raise InputError("a rule has no logits")
        w1, b1, w2, b2, w3, b3 = self._weights
        x = rows.astype(np.float64)
        hidden = np.tanh(x @ w1 + b1)
        hidden = np.tanh(hidden @ w2 + b2)
        scores: NDArray[np.float64] = hidden @ w3 + b3 + self._prior * x[:, -NUM_VERBS:]
        return scores

    def _outside(self, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
        # A number that is not one lies nowhere, so that the rule answers.
        if self._weights is None or self._range is None:
            return np.full(len(rows), self._weights is None)
        low, high = self._range
        outside: NDArray[np.bool_] = np.any(~((rows >= low) & (rows <= high)), axis=1)
        return outside
