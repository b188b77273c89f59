"""Regret over the suite: how many times the latency of the tuned reference rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.evaluate import NUM_RESAMPLES

#: scenario -> policy -> mean normalized latency of every seed, s/token.
Latencies = Mapping[str, Mapping[str, Sequence[float]]]


def suite_regret(
    latency_s: Latencies, suite_of: Mapping[str, str], reference: str
) -> dict[str, Any]:
    """Ratios of mean latencies with 95 % intervals, seeds resampled in pairs.

    Args:
        latency_s: by scenario and policy; every policy runs in every scenario.
        suite_of: scenario -> the suite it is summed up in.
        reference: whose latency is 1.

    Returns:
        ``reference``; ``scenarios``: scenario -> policy -> ``ratio`` and ``ci95``; ``policies``:
        policy -> suite -> ``geometric_mean``, its ``ci95``, ``max``, ``worst_scenario`` and
        ``num_scenarios``. The policies are in order of the geometric mean over all scenarios.
    """
    ratios: dict[str, dict[str, NDArray[np.float64]]] = {
        scenario: {
            policy: _ratios(values, by_policy[reference]) for policy, values in by_policy.items()
        }
        for scenario, by_policy in latency_s.items()
    }
    names = next(iter(latency_s.values()))
    overall = {
        name: float(np.mean([np.log(row[name][0]) for row in ratios.values()])) for name in names
    }
    return {
        "reference": reference,
        "scenarios": {
            scenario: {name: _with_interval("ratio", found) for name, found in row.items()}
            for scenario, row in ratios.items()
        },
        "policies": {
            name: {
                suite: _summed_up({s: ratios[s][name] for s in ratios if suite_of[s] == suite})
                for suite in dict.fromkeys(suite_of.values())
            }
            for name in sorted(names, key=lambda name: overall[name])
        },
    }


def ratio_of_means(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """``ratio`` of the means of paired values, and its ``ci95``."""
    return _with_interval("ratio", _ratios(ours, theirs))


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> NDArray[np.float64]:
    # The ratio, then those of the resamples. Traces of one seed share their sessions between
    # scenarios of one workload: with the same picks everywhere a mean over scenarios keeps that.
    pair = np.array([ours, theirs])
    picks = np.random.default_rng(0).integers(len(ours), size=(NUM_RESAMPLES, len(ours)))
    resampled = pair[:, picks].mean(axis=2)
    return np.concatenate([[pair[0].mean() / pair[1].mean()], resampled[0] / resampled[1]])


def _with_interval(name: str, found: NDArray[np.float64]) -> dict[str, Any]:
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return {name: float(found[0]), "ci95": [float(low), float(high)]}


def _summed_up(ratios: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    worst = max(ratios, key=lambda scenario: float(ratios[scenario][0]))
    mean = np.exp(np.mean([np.log(found) for found in ratios.values()], axis=0))
    return {
        **_with_interval("geometric_mean", mean),
        "max": float(ratios[worst][0]),
        "worst_scenario": worst,
        "num_scenarios": len(ratios),
    }
