"""A policy's answers to many decisions at once, in NumPy alone.

The same numbers as ``rlkv_engine.mlp``, for whoever asks from outside of the engine's loop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.policy import NUM_VERBS, AgentPolicy
from rlkv_agents.tree_verbs import answers_of
from rlkv_engine.errors import InputError
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.state import SWAP
from rlkv_engine.tree import AS_RULE, NO_TREE, NUM_POINTS

#: Of verbs with equal logits the first of these is answered, as in the engine.
_PREFERENCE = np.array([0, 2, 1])


class Answers(NamedTuple):
    """One answer a row."""

    verb: NDArray[np.int64]  # [num]
    probability: NDArray[np.float64]  # [num, 3]; all on the rule's verb where the rule answers
    by_rule: NDArray[np.bool_]  # [num], outside of what was trained on, or where unsure


def rule_verbs(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """The rule's own verbs, which the last three features say; shape ``[num]``."""
    return np.asarray(rows[:, -NUM_VERBS:].argmax(axis=1), np.int64)


def knows(policy: AgentPolicy, rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which observations lie within what the policy was trained on, shape ``[num]``."""
    if policy.trained_range is None:
        return np.ones(len(rows), np.bool_)
    low, high = policy.trained_range
    # A number that is not one lies nowhere.
    return np.asarray(((rows >= low) & (rows <= high)).all(axis=1))


def greedy_verbs(
    policy: AgentPolicy, rows: NDArray[np.float32], swap_legal: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The verbs of a policy for observations ``[num, num_features]``, shape ``[num]``."""
    masks = np.ones((len(rows), NUM_VERBS), np.bool_)
    masks[:, SWAP] = swap_legal
    return BatchInference(policy)(rows, masks).verb


class BatchInference:
    """Answers rows of observations as the policy would inside an engine.

    Args:
        policy: a rule (which answers with the verb that the observations say is its own), or a
            network or trees on one.
    """

    def __init__(self, policy: AgentPolicy) -> None:
        self._policy = policy
        self._weights = None
        if policy.weights is not None:
            w1, b1, w2, b2, w3, b3 = (np.asarray(each, np.float64) for each in policy.weights)
            self._weights = (np.ascontiguousarray(w1.T), b1, np.ascontiguousarray(w2.T), b2,
                             np.ascontiguousarray(w3.T), b3)  # fmt: skip

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
        rule = rule_verbs(rows)
        verb, probability = rule, np.eye(NUM_VERBS)[rule]
        by_rule = np.ones(len(rows), np.bool_)
        if self._weights is not None:
            logits = np.where(masks, self.logits(rows), -np.inf)
            verb = _PREFERENCE[logits[:, _PREFERENCE].argmax(axis=1)]
            probability = np.exp(logits - logits.max(axis=1, keepdims=True))
            probability /= probability.sum(axis=1, keepdims=True)
            unsure = probability.max(axis=1) <= self._policy.min_confidence
            by_rule = (verb != rule) & unsure & (self._policy.min_confidence > 0.0)
        if self._policy.trees is not None:
            trees = self._policy.trees
            point = rows[:, :NUM_POINTS].argmax(axis=1)  # the first features say which it is
            answer = answers_of(trees, rows, point, masks[:, SWAP])
            has_tree = trees.root[point] != NO_TREE
            verb = np.where(has_tree & (answer != AS_RULE), answer, verb)
            by_rule = np.where(has_tree, answer == AS_RULE, by_rule)
            # A tree has no doubts.
            probability[has_tree] = np.eye(NUM_VERBS)[verb[has_tree]]
        by_rule = by_rule | ~knows(self._policy, rows)
        verb = np.where(by_rule, rule, verb)
        probability[by_rule] = np.eye(NUM_VERBS)[rule[by_rule]]
        return Answers(verb, probability, by_rule)

    def logits(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of the network with its prior, legal or not; shape ``[num, 3]``.

        Raises:
            InputError: the policy has no network.
        """
        if self._weights is None:
            raise InputError(f"{self._policy.name} has no network, and so no logits")
        w1, b1, w2, b2, w3, b3 = self._weights
        x = rows.astype(np.float64)
        hidden = np.tanh(x @ w1 + b1)
        hidden = np.tanh(hidden @ w2 + b2)
        scores: NDArray[np.float64] = hidden @ w3 + b3 + self._policy.prior * x[:, -NUM_VERBS:]
        return scores
