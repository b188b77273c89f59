"""The picture of reliability: what departures from the rule bring, by how sure the policy is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlkv.report.palette import INK, LEARNED, add_axes, look, make_figure, to_png


def reliability_png(
    groups: Mapping[str, Sequence[Mapping[str, Any]]], min_confidence: float
) -> bytes:
    """PNG with a panel for each group of machines, from what ``reliability`` returns."""
    title = (
        "What leaving the rule saves, by the policy's confidence; left of the dashed line the rule"
        f" answers (at most {min_confidence:g})"
    )
    with look():
        figure = make_figure(4.0, title)
        grid = add_axes(figure, 1, len(groups), sharey=True)
        for axes, (name, rows) in zip(grid[0], groups.items(), strict=True):
            x = [(row["low"] + row["high"]) / 2.0 for row in rows]
            y = [100.0 * row["advantage"] for row in rows]
            below = [100.0 * (row["advantage"] - row["ci95"][0]) for row in rows]
            above = [100.0 * (row["ci95"][1] - row["advantage"]) for row in rows]
            axes.axhline(0.0, color=INK, linewidth=0.8)
            axes.axvline(min_confidence, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
            axes.errorbar(x, y, [below, above], fmt="o-", color=LEARNED, capsize=3)
            for row, at, value in zip(rows, x, y, strict=True):
                axes.annotate(
                    f"{row['num']:,}", (at, value), (5, 6), textcoords="offset points", fontsize=8
                )
            axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold")
            axes.set_xlabel("probability of the verb it takes")
            axes.set_xlim(0.3, 1.02)
        grid[0][0].set_ylabel("saved against the rule's verb\n(% of the mean cost)")
        return to_png(figure)
