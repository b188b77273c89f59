"""The share of the gap between a reference and a ceiling that a policy closes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlkv_agents.evaluate import NUM_RESAMPLES


def gap_closed(
    policy_s: Sequence[float], reference_s: Sequence[float], ceiling_s: Sequence[float]
) -> dict[str, Any]:
    """``share`` of the gap on the sum over paired traces, and its ``ci95``, traces resampled.

    (reference - policy) / (reference - ceiling): 1 at the ceiling, 0 at the reference, negative
    where the policy is worse than that. Both are None where there is no gap at all.
    """
    latency_s = np.array([policy_s, reference_s, ceiling_s])
    picks = np.random.default_rng(0).integers(
        latency_s.shape[1], size=(NUM_RESAMPLES, latency_s.shape[1])
    )
    policy, reference, ceiling = latency_s[:, picks].sum(axis=2)
    has_gap = reference > ceiling
    total = latency_s.sum(axis=1)
    if total[1] <= total[2] or not has_gap.any():
        return {"share": None, "ci95": None}
    shares = ((reference - policy) / np.where(has_gap, reference - ceiling, 1.0))[has_gap]
    low, high = np.percentile(shares, [2.5, 97.5])
    share = (total[1] - total[0]) / (total[1] - total[2])
    return {"share": float(share), "ci95": [float(low), float(high)]}
