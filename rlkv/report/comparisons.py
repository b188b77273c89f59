"""Pictures with one row for each policy, pause length or scenario."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlkv.report.findings import about_gaps, about_policies, about_regret, ms
from rlkv.report.palette import (
    BEST,
    BOUND,
    FAINT,
    LEARNED,
    RULE,
    add_axes,
    color_of,
    make_figure,
    plain_log_ticks,
)
from rlkv.report.schema import (
    Record,
    best_rule_name,
    bounds,
    competitors,
    learned_name,
    ratio_to_best_rule,
    scenarios,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Ratios beyond this are drawn at the edge of the regret picture.
_MAX_RATIO = 3.0


def draw_policies(record: Record) -> Figure | None:
    """Mean normalized latency of every policy with its interval."""
    names = [*competitors(record), *bounds(record)]
    figure = make_figure(1.2 + 0.27 * len(names), about_policies(record))
    axes = add_axes(figure)[0][0]
    plain_log_ticks(axes, "x")
    for row, name in enumerate(names):
        latency = record["policies"][name]["normalized_latency_s"]
        color = color_of(record, name)
        mean = latency["mean"] * 1000.0
        if "ci95" in latency:
            low, high = (1000.0 * end for end in latency["ci95"])
            axes.plot([low, high], [row, row], color=color, linewidth=4.5, alpha=0.35)
        strong = color in (LEARNED, BEST)
        inside = "white" if color == BOUND else color
        axes.plot(
            [mean], [row], "o", color=color, markersize=9 if strong else 6, markerfacecolor=inside
        )
        ratio = ratio_to_best_rule(record, name)
        ratio = ratio_to_best_rule(record, name)
        style = {"fontweight": "bold", "color": color} if strong else {"color": "#4a515c"}
        _beside(axes, row, 34, ms(latency["mean"]), style)
        if ratio:
            _beside(axes, row, 78, f"{ratio['ratio']:.2f}x", style)
    _name_rows(axes, record, names)
    if bounds(record):
        axes.axhline(len(competitors(record)) - 0.5, color="#8b929c", linewidth=0.8)
        axes.annotate(
            "sees the future", (0.995, len(competitors(record)) - 0.5), (0, -3), ha="right",
            xycoords=("axes fraction", "data"), textcoords="offset points", va="top", fontsize=8.5,
        )  # fmt: skip
    for points, heading in ((34, "ms/token"), (78, "/ best")):
        _beside(axes, -1, points, heading, {"color": "#6d747e"})
    axes.set_ylim(len(names) - 0.4, -1.4)
    axes.set_xlabel("mean normalized latency (ms/token) with its 95 % interval")
    return figure


def draw_gaps(record: Record) -> Figure | None:
    """Resume latency by length of the pause: mean and 99th percentile."""
    shown = {
        name: figures["resume_latency_by_gap_s"]
        for name, figures in competitors(record).items()
        if figures.get("resume_latency_by_gap_s")
    }
    gaps = list(dict.fromkeys(gap for by_gap in shown.values() for gap in by_gap))
    if not gaps:
        return None
    gaps = sorted(gaps, key=_gap_order)
    figure = make_figure(1.5 + 0.5 * len(gaps), about_gaps(record))
    panels = add_axes(figure, 1, 2, sharey=True)[0]
    for axes, field, title in zip(
        panels, ("mean", "p99"), ("mean", "99th percentile"), strict=True
    ):
        axes.set_xscale("log")
        for name, by_gap in shown.items():
            color = color_of(record, name)
            for row, gap in enumerate(gaps):
                value = float(by_gap[gap][field]) if gap in by_gap else 0.0  # type: ignore[literal-required]
                if value > 0:
                    _dot(axes, value * 1000.0, row, color)
        low, high = axes.get_xlim()
        plain_log_ticks(axes, "x", (1,) if high > 150 * low else (1, 2, 5))
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("resume latency (ms)")
        axes.grid(True, axis="both")
    panels[0].set_yticks(range(len(gaps)), gaps)
    panels[0].set_ylim(len(gaps) - 0.5, -0.5)
    panels[0].set_ylabel("length of the pause")
    _role_legend(figure, record)
    return figure


def draw_regret(record: Record) -> Figure | None:
    """Ratio of every policy to the best rule of each scenario, with the worst case."""
    if len(scenarios(record)) < 2:
        return None
    from rlkv_agents.regret import regret

    table = regret(scenarios(record))
    rows = [(row["scenario"], row["ratio"], row["best_rule"]) for row in table["scenarios"]]
    for label, field in (("geometric mean", "geometric_mean"), ("worst case", "max")):
        ratios = {
            name: policy[field]
            for name, policy in table["policies"].items()
            if policy["num_scenarios"] == len(table["scenarios"])
        }
        rows.append((label, ratios, ""))
    ahead = {name for name, policy in table["policies"].items() if policy["sees_future"]}
    figure = make_figure(1.5 + 0.46 * len(rows), about_regret(record, table))
    axes = add_axes(figure)[0][0]
    learned = learned_name(record)
    for at, (_, ratios, best) in enumerate(rows):
        for name, ratio in ratios.items():
            role = LEARNED if name == learned else BOUND if name in ahead else RULE
            _dot(axes, min(ratio, _MAX_RATIO), at, BEST if name == best else role)
        if learned in ratios:
            style = {"fontweight": "bold", "color": LEARNED}
            _beside(axes, at, 46, f"{ratios[learned]:.2f}x", style)
        beyond = sum(ratio > _MAX_RATIO for ratio in ratios.values())
        if beyond:
            _beside(axes, at, 118, f"{beyond} beyond {_MAX_RATIO:g}x", {"color": "#4a515c"})
    axes.axvline(1.0, color=BEST, linewidth=1.0, zorder=1)
    axes.axhline(len(rows) - 2.5, color="#8b929c", linewidth=0.8)
    labels = [f"{label}\nbest rule: {best}" if best else label for label, _, best in rows]
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("mean normalized latency / that of the scenario's best rule")
    axes.grid(True, axis="x")
    _role_legend(figure, record, bool(ahead))
    return figure


def _beside(axes: Axes, row: int, points: float, text: str, style: Mapping[str, Any]) -> None:
    # Text right of the axes that ends so many points from them.
    axes.annotate(
        text, (1.0, row), (points, 0), xycoords=("axes fraction", "data"), ha="right",
        textcoords="offset points", va="center", fontsize=9, **style,
    )  # fmt: skip


def _dot(axes: Axes, x: float, row: int, color: str) -> None:
    strong = color in (LEARNED, BEST)
    axes.plot(
        [x], [row], "o", color=color, markersize=8 if strong else 4.5, clip_on=False,
        zorder={LEARNED: 6, BEST: 5}.get(color, 3), alpha=1.0 if strong else 0.75,
        markerfacecolor="white" if color == BOUND else color,
    )  # fmt: skip


def _name_rows(axes: Axes, record: Record, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        color = color_of(record, name)
        if color in (LEARNED, BEST):
            label.set_color(color)
            label.set_fontweight("bold")
    axes.hlines(range(len(names)), 0, 1, transform=axes.get_yaxis_transform(),
                color=FAINT, linewidth=0.8, zorder=0)  # fmt: skip


def _gap_order(name: str) -> tuple[float, bool]:
    # "< 0.1 s", "0.1-1 s", ..., "> 60 s": by the first number, what is below it first.
    first = name.lstrip("<> ").split("-")[0].split(" ")[0]
    try:
        return float(first), not name.startswith("<")
    except ValueError:
        return float("inf"), True


def _role_legend(figure: Figure, record: Record, ahead: bool = False) -> None:
    from matplotlib.lines import Line2D

    best = best_rule_name(record)
    roles = [(learned_name(record), LEARNED), ("best rule" if best else None, BEST),
             ("other rules", RULE), ("sees the future" if ahead else None, BOUND)]  # fmt: skip
    handles = [
        Line2D([], [], linestyle="", marker="o", color=color, label=label,
               markersize=8 if color in (LEARNED, BEST) else 5,
               markerfacecolor="white" if color == BOUND else color)
        for label, color in roles
        if label
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
