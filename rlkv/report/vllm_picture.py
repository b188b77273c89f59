"""The picture of the bench on real vLLM servers: what is cached, and how long turns take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlkv.report.palette import BEST, LEARNED, RULE, add_axes, look, make_figure, to_png

#: Panels: figure of a policy, factor to its unit, label.
_PANELS = (
    ("cached_share", 100.0, "cached tokens of agents that\ncame back (%)"),
    ("resume_p50_s", 1.0, "tool's return to\nthe next token (s)"),
    ("agent_turn_p50_s", 1.0, "turn of an agent (s)"),
    ("stranger_turn_p50_s", 1.0, "turn of a stranger (s)"),
    ("total_s", 1.0, "whole run (s)"),
)
_COLOURS = {"sidecar": LEARNED, "rule": BEST}


def vllm_png(record: Mapping[str, Any]) -> bytes:
    """PNG of the bench's record: median bold, p90 faint, whiskers are 95 % intervals of means."""
    conditions = record["measured_on"]
    policies = conditions["policies"]
    title = (
        f"Agents that pause and strangers on vLLM {conditions['vllm']}, real server, CPU:"
        f" contexts want {conditions['working_set_over_pool']:.1f} times the pool"
        f" ({conditions['num_runs']} paired runs)"
    )
    with look():
        figure = make_figure(1.5 + 0.36 * len(policies), title)
        place = np.arange(len(policies))[::-1]
        for axes, (name, factor, label) in zip(
            add_axes(figure, 1, len(_PANELS), sharey=True)[0], _PANELS, strict=True
        ):
            entries = [measured[name] for measured in policies.values()]
            colours = [_COLOURS.get(policy, RULE) for policy in policies]
            if name.endswith("p50_s"):
                p90 = [
                    factor * measured[name.replace("p50", "p90")]["mean"]
                    for measured in policies.values()
                ]
                axes.barh(place, p90, 0.7, color=colours, alpha=0.3)
            means = np.array([factor * entry["mean"] for entry in entries])
            axes.barh(place, means, 0.45, color=colours)
            if all(entry["ci95"] for entry in entries):
                low, high = factor * np.array([entry["ci95"] for entry in entries]).T
                spread = np.maximum([means - low, high - means], 0.0)
                axes.errorbar(means, place, xerr=spread, fmt="none", ecolor="#1f2430", lw=1.0)
            axes.set_xlim(left=0.0)
            axes.set_xlabel(label, fontsize=9)
            axes.set_yticks(place, list(policies))
        return to_png(figure)
