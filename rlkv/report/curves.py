"""Pictures with an axis of load or of time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from rlkv.report.findings import about_load, about_timeline, ms
from rlkv.report.palette import (
    BOUND,
    INK,
    POOL,
    RULE,
    add_axes,
    color_of,
    label_ends,
    line_style,
    make_figure,
    plain_log_ticks,
)
from rlkv.report.schema import Record, best_rule_name, learned_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_load(record: Record) -> Figure | None:
    """Mean normalized latency against load for every policy."""
    sweep = record.get("load_sweep")
    if not sweep or not sweep["policies"] or not sweep["rates_per_s"]:
        return None
    rates = sweep["rates_per_s"]
    figure = make_figure(5.2, about_load(record))
    axes = add_axes(figure)[0][0]
    plain_log_ticks(axes, "y")
    ends, colors = {}, {}
    for name, curve in sweep["policies"].items():
        shown = [math.nan if value is None else value * 1000.0 for value in curve]
        axes.plot(rates, shown, **line_style(record, name))
        last = [value for value in shown if value == value]
        if last:
            ends[name], colors[name] = last[-1], color_of(record, name)
    limit_s = sweep.get("limit_s")
    if limit_s is not None:
        axes.axhline(limit_s * 1000.0, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        text = f"2x an empty engine: {ms(limit_s)} ms/token"
        axes.annotate(
            text, (0.992, limit_s * 1000.0), (0, -3), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=8.5, ha="right", va="top", zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85},
        )  # fmt: skip
        for name, rate in sweep.get("sustainable_rate_per_s", {}).items():
            if rate is not None and name in sweep["policies"]:
                style = line_style(record, name)
                size = 7 if style["linewidth"] > 2 else 3.5
                axes.plot(
                    [rate], [limit_s * 1000.0], "o", color=style["color"], markersize=size,
                    zorder=style["zorder"] + 1,
                )  # fmt: skip
    axes.set_xlim(min(rates), max(rates) if len(rates) > 1 else rates[0] * 1.1)
    axes.set_xticks(rates, [f"{rate:.3g}" for rate in rates])
    axes.set_xlabel("load (sessions/s)")
    axes.set_ylabel("mean normalized latency (ms/token)")
    axes.grid(True, axis="y")
    label_ends(axes, ends, colors)
    return figure


def draw_timeline(record: Record) -> Figure | None:
    """What the device pool holds over time under each policy, and how full the host pool is."""
    known = {name: drawn for name, drawn in record.get("timeline", {}).items() if drawn["t_s"]}
    # The best rule first, the learned policy below it.
    timelines = dict(
        sorted(
            known.items(),
            key=lambda item: (item[0] != best_rule_name(record), item[0] != learned_name(record)),
        )
    )
    if not timelines:
        return None
    figure = make_figure(1.2 + 1.9 * len(timelines), about_timeline(record))
    grid = add_axes(figure, len(timelines), 1, sharex=True)
    for (axes,), (name, timeline) in zip(grid, timelines.items(), strict=True):
        series = cast(dict[str, list[float]], timeline)
        parts = [[100.0 * share for share in series[part]] for part, _ in POOL]
        axes.stackplot(timeline["t_s"], parts, colors=[c for _, c in POOL], linewidth=0)
        host = [100.0 * share for share in timeline["host"]]
        if any(host):
            axes.plot(timeline["t_s"], host, color="#d6336c", linewidth=1.6)
        axes.set_ylim(0, 100)
        axes.set_xlim(timeline["t_s"][0], max(timeline["t_s"][-1], timeline["t_s"][0] + 1e-9))
        axes.set_yticks([0, 50, 100])
        color = color_of(record, name)
        axes.set_title(
            name, loc="left", fontsize=10, fontweight="bold",
            color=INK if color in (RULE, BOUND) else color,
        )  # fmt: skip
    grid[-1][0].set_xlabel("time (s)")
    figure.supylabel("share of the pool (%)", fontsize=10)
    _pool_legend(figure)
    return figure


def _pool_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    names = {"paused": "held for paused sessions", "pending": "being copied out",
             "reclaimable": "given up, not overwritten", "running": "running"}  # fmt: skip
    handles: list[Patch | Line2D] = [
        Patch(facecolor=color, edgecolor="#b4bac2", linewidth=0.4, label=names.get(part, part))
        for part, color in POOL
    ]
    handles.append(Line2D([], [], color="#d6336c", linewidth=1.6, label="host pool in use"))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
        fontsize=8.5, handlelength=1.2, columnspacing=1.2,
    )  # fmt: skip
