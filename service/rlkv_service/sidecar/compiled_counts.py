"""Counting verdicts, compiled: NumPy would take as long for it as the verdicts took."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit
from rlkv_service.schema import Reason

_SHADOW = int(Reason.SHADOW)


@jit
def count_rows(
    verb: NDArray[np.int8],
    by_rule: NDArray[np.int8],
    reason: NDArray[np.int8],
    policy_verb: NDArray[np.int8],
    rule_verb: NDArray[np.int8],
    confidence: NDArray[np.float32],
    edges: NDArray[np.float64],
    decisions: NDArray[np.int64],
    reasons: NDArray[np.int64],
    buckets: NDArray[np.int64],
    shadowed: NDArray[np.int64],
) -> float:
    """Adds the columns of verdicts, ``[n]`` each, to what was counted.

    Args:
        verb: of the verdicts, as the five columns after it.
        by_rule: 1 where the rule decided.
        reason: see ``schema.Reason``.
        policy_verb: what the policy said.
        rule_verb: what the rule said.
        confidence: of the policy.
        edges: upper edges of buckets of the confidence.
        decisions: rows by the rule and by the policy, ``[2, 3]``.
        reasons: rows by reason.
        buckets: departures by confidence, ``[len(edges) + 1]``.
        shadowed: departures of a policy that only watches, ``[1]``.

    Returns:
        Sum of the confidences of departures.
    """
    total = 0.0
    for row in range(verb.shape[0]):
        decisions[1 - by_rule[row], verb[row]] += 1
        reasons[reason[row]] += 1
        if policy_verb[row] != rule_verb[row]:
            bucket = 0
            while bucket < edges.shape[0] and confidence[row] > edges[bucket]:
                bucket += 1
            buckets[bucket] += 1
            total += confidence[row]
            if reason[row] == _SHADOW:
                shadowed[0] += 1
    return total
