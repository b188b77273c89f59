"""How far each policy is from the best rule of each scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def regret(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ratio of every policy's mean normalized latency to the best rule's, by scenario.

    The best rule is the one with the lowest mean in that very record, among those that neither
    learn nor see the future: no rule is below 1, a learned policy may be.

    Args:
        records: one per scenario, each with ``scenario``, ``policies`` and perhaps ``learned``.

    Returns:
        ``scenarios``: a row each with ``scenario``, ``best_rule`` and ``ratio`` (name -> ratio);
        ``policies``: name -> ``max`` and ``geometric_mean`` of its ratios, ``worst_scenario``,
        ``num_scenarios`` it was run on, and ``sees_future``; ordered by geometric mean.
    """
    rows = [row for record in records if (row := _row(record)) is not None]
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for row in rows for name in row["ratio"]):
        ratios = {row["scenario"]: row["ratio"][name] for row in rows if name in row["ratio"]}
        worst = max(ratios, key=lambda scenario: ratios[scenario])
        table[name] = {
            "max": ratios[worst],
            "worst_scenario": worst,
            "geometric_mean": float(np.exp(np.mean(np.log(list(ratios.values()))))),
            "num_scenarios": len(ratios),
            "sees_future": any(
                bool(record["policies"].get(name, {}).get("sees_future")) for record in records
            ),
        }
    ordered = sorted(table, key=lambda name: float(table[name]["geometric_mean"]))
    return {"scenarios": rows, "policies": {name: table[name] for name in ordered}}


def _row(record: Mapping[str, Any]) -> dict[str, Any] | None:
    mean_s = {
        name: float(policy["normalized_latency_s"]["mean"])
        for name, policy in record["policies"].items()
    }
    rules = [
        name
        for name, policy in record["policies"].items()
        if name != record.get("learned") and not policy.get("sees_future", False)
    ]
    if not rules:
        return None
    best = min(rules, key=lambda name: mean_s[name])
    return {
        "scenario": record["scenario"],
        "best_rule": best,
        "ratio": {name: mean / mean_s[best] for name, mean in mean_s.items()},
    }
