"""The decision maps: what rule and learned policy answer, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlkv.report.findings import REQUESTERS, about_maps
from rlkv.report.palette import (
    BOUND,
    INK,
    RULE,
    VERBS,
    add_axes,
    color_of,
    make_figure,
    plain_log_ticks,
)
from rlkv.report.schema import Record, best_rule_name, learned_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rlkv.report.schema import DecisionMap


def draw_decision_map(record: Record) -> Figure | None:
    """A row of maps for each kind of decision point, a column for each policy."""
    maps = record.get("decision_maps", {})
    points = [point for point, by_policy in maps.items() if any(by_policy.values())]
    # The best rule first, the learned policy beside it.
    names = sorted(
        dict.fromkeys(name for point in points for name in maps[point]),
        key=lambda name: (name != best_rule_name(record), name != learned_name(record)),
    )
    if not points:
        return None
    figure = make_figure(1.3 + 2.75 * len(points), about_maps(record))
    grid = add_axes(figure, len(points), len(names))
    for row, point in zip(grid, points, strict=True):
        for axes, name in zip(row, names, strict=True):
            drawn = maps[point].get(name)
            if drawn is None:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "not met", transform=axes.transAxes, ha="center")
                continue
            _draw_map(axes, drawn)
            color = color_of(record, name)
            axes.set_title(
                name, loc="left", fontsize=10, fontweight="bold",
                color=INK if color in (RULE, BOUND) else color,
            )  # fmt: skip
            if row is grid[-1]:
                axes.set_xlabel("expected remaining pause (s)")
        requester = f"{REQUESTERS[point]} needs memory" if point in REQUESTERS else point
        row[0].set_ylabel(f"{requester}\n\ncontext (% of device pool)")
    _verb_legend(figure)
    return figure


def _draw_map(axes: Axes, drawn: DecisionMap) -> None:
    from matplotlib.colors import ListedColormap

    context = [100.0 * share for share in drawn["context_ratio"]]
    plain_log_ticks(axes, "x", (1, 3))
    axes.pcolormesh(
        drawn["remaining_s"], context, drawn["verb"], shading="nearest", rasterized=True,
        cmap=ListedColormap([color for _, color in VERBS]), vmin=-0.5, vmax=2.5,
    )  # fmt: skip
    met = drawn.get("met", [])
    # Decisions at the very edge stand for those outside.
    low, high = drawn["remaining_s"][0], drawn["remaining_s"][-1]
    axes.scatter(
        [min(max(remaining, low), high) for remaining, _ in met],
        [min(max(100.0 * share, context[0]), context[-1]) for _, share in met],
        s=5, color="#11151c", alpha=0.35, linewidths=0,
    )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(context[0], context[-1])


def _verb_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Patch | Line2D] = [Patch(facecolor=c, label=verb) for verb, c in VERBS]
    handles.append(
        Line2D([], [], linestyle="", marker="o", color="#11151c", markersize=3,
               label="decisions met on a validation trace")
    )  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
