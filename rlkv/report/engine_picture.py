"""The picture of a demonstration: latencies of every policy on the real engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlkv.report.palette import BEST, LEARNED, RULE, add_axes, look, make_figure, to_png


def demonstration_png(record: Mapping[str, Any]) -> bytes:
    """PNG with the latency of a token and of a resume by policy, from a demonstration's record."""
    policies = record["policies"]
    title = (
        f"{record['num_sessions']} sessions of {record['workload']} on {record['model']}, in real"
        f" time: {record['num_device_blocks']} blocks on the device,"
        f" {record['num_host_blocks']} on the host"
    )
    with look():
        figure = make_figure(0.9 + 0.34 * len(policies) + 0.8, title)
        grid = add_axes(figure, 1, 2, sharey=True)
        place = np.arange(len(policies))[::-1]
        panels = (
            ("normalized_latency_s", "time per generated token, without pauses (ms)"),
            ("resume_latency_s", "tool return to the next token (ms)"),
        )
        for axes, (figure_name, label) in zip(grid[0], panels, strict=True):
            mean, p90 = (
                np.array([1e3 * policy[figure_name][key] for policy in policies.values()])
                for key in ("mean", "p90")
            )
            axes.barh(place, p90, 0.7, color=RULE, alpha=0.45, label="p90")
            colours = [LEARNED if i == int(np.nanargmin(mean)) else BEST for i in range(len(mean))]
            axes.barh(place, mean, 0.4, color=colours, label="mean")
            axes.set_xlabel(label)
            axes.set_yticks(place, list(policies))
        grid[0][0].legend(frameon=False, fontsize=8)
        return to_png(figure)
