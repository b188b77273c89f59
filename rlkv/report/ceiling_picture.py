"""The picture of the ceiling: for each scenario what is left between the rule and the best plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlkv.report.palette import (
    BEST,
    BOUND,
    FAINT,
    INK,
    LEARNED,
    RULE,
    add_axes,
    look,
    make_figure,
    plain_log_ticks,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Ratios beyond are drawn at the edge.
_MAX_RATIO = 1.6
_ROW_IN = 0.42
_MARKERS = "sDv^<>pXPh*d"


def draw_ceiling_picture(record: Mapping[str, Any]) -> bytes:
    """PNG: a row for each scenario, latencies as multiples of the tuned reference rule's."""
    with look():
        return to_png(_draw(record))


def _draw(record: Mapping[str, Any]) -> Figure:
    scenarios = record["scenarios"]
    figure = make_figure(2.6 + _ROW_IN * len(scenarios), _title(record))
    axes = add_axes(figure)[0][0]
    names = [name for name in next(iter(scenarios.values()))["policies"]]
    others = [name for name in names if name != record["reference"]]
    lowest = 1.0
    for row, found in enumerate(scenarios.values()):
        reference_s = found["policies"][record["reference"]]["mean_s"]
        ratio = found["ceiling"]["ratio_to_reference"]
        axes.barh(row, 1.0 - ratio["ratio"], left=ratio["ratio"], height=0.62, color=FAINT)
        low, high = ratio["ci95"]
        axes.plot([low, high], [row, row], color=BEST, linewidth=1.2, zorder=3)
        axes.plot(ratio["ratio"], row, "|", color=BEST, markersize=17, markeredgewidth=2.6)
        unlimited = next(iter(found["marks"].values()))["mean_s"] / reference_s
        axes.plot(unlimited, row, "|", color=BOUND, markersize=17, markeredgewidth=1.2)
        lowest = min(lowest, low, unlimited)
        for k, name in enumerate(others):
            policy = found["policies"][name]
            _mark(axes, row, k, policy["mean_s"] / reference_s, policy)
    _frame(axes, record, lowest)
    _legend(figure, record, others)
    return figure


def _mark(axes: Axes, row: int, k: int, ratio: float, policy: Mapping[str, Any]) -> None:
    color = LEARNED if policy["learned"] else BOUND if policy["sees_future"] else RULE
    beyond = ratio > _MAX_RATIO
    axes.plot(
        min(ratio, _MAX_RATIO), row, _MARKERS[k % len(_MARKERS)], color=color, markersize=6.5,
        markerfacecolor="white" if beyond else color, clip_on=False,
        zorder=5 if policy["learned"] else 4,
    )  # fmt: skip


def _frame(axes: Axes, record: Mapping[str, Any], lowest: float) -> None:
    scenarios = list(record["scenarios"])
    axes.set_yticks(range(len(scenarios)), scenarios)
    axes.set_ylim(len(scenarios) - 0.4, -0.6)
    axes.set_xlim(lowest / 1.04, _MAX_RATIO)
    plain_log_ticks(axes, "x", (1, 2, 3, 4, 5, 6, 7, 8, 9))
    axes.axvline(1.0, color=INK, linewidth=1.0, zorder=1)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(
        f"mean normalized latency / that of {record['reference']} tuned for the scenario;"
        f" hollow: above {_MAX_RATIO:g}",
        fontsize=8.5,
    )


def _legend(figure: Figure, record: Mapping[str, Any], others: list[str]) -> None:
    from matplotlib.lines import Line2D

    def line(marker: str, color: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, color=color, linestyle="none", label=label)

    policies = next(iter(record["scenarios"].values()))["policies"]
    entries = [
        line("|", BEST, "the best plan found"),
        line("|", BOUND, next(iter(next(iter(record["scenarios"].values()))["marks"]))),
    ]
    for k, name in enumerate(others):
        policy = policies[name]
        color = LEARNED if policy["learned"] else BOUND if policy["sees_future"] else RULE
        label = f"{name} (sees the future)" if policy["sees_future"] else name
        entries.append(line(_MARKERS[k % len(_MARKERS)], color, label))
    figure.legend(handles=entries, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)


def _title(record: Mapping[str, Any]) -> str:
    ratios = {
        name: float(found["ceiling"]["ratio_to_reference"]["ratio"])
        for name, found in record["scenarios"].items()
    }
    most, least = min(ratios, key=lambda n: ratios[n]), max(ratios, key=lambda n: ratios[n])
    said = f"What is left below the tuned {record['reference']} rule for who knows the future: "
    if len(ratios) == 1:
        return f"{said}{1.0 - ratios[most]:.0%} on {most}"
    return f"{said}from {1.0 - ratios[least]:.0%} ({least}) to {1.0 - ratios[most]:.0%} ({most})"
