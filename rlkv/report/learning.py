"""The picture of learning: validation latency against the CPU time of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlkv.report.findings import about_learning, ms
from rlkv.report.palette import (
    INK,
    LEARNED,
    REFERENCES,
    add_axes,
    color_of,
    label_ends,
    line_style,
    make_figure,
)
from rlkv.report.schema import Record, ReferenceCurve, Snapshot, bounds, learned_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What is this much slower than the slowest snapshot and the best rule is not drawn, but counted.
_SHOWN_FACTOR = 1.5


def draw_learning_curve(record: Record) -> Figure | None:
    """Every snapshot against the rule it started at, with the rules and other recipes beside."""
    curve = record.get("learning_curve")
    if not curve:
        return None
    figure = make_figure(4.6, about_learning(record))
    axes = add_axes(figure)[0][0]
    start_s = curve[0]["validation_s"]
    learned = [point["validation_s"] / start_s for point in curve]
    timed = all("cpu_s" in point for point in curve)
    x = [point["cpu_s"] if timed else float(point["steps"]) for point in curve]
    rules = {
        name: value / start_s
        for name, value in record.get("validation_rules_s", {}).items()
        if name != learned_name(record)
    }
    known = [value for name, value in rules.items() if name not in bounds(record)]
    ceiling = max([*learned, min(known, default=0.0)]) * _SHOWN_FACTOR
    drawn = {name: value for name, value in rules.items() if value <= ceiling}
    for name, value in drawn.items():
        axes.axhline(value, **line_style(record, name))
    others = _draw_references(axes, record, x[-1], ceiling) if timed else {}
    _draw_snapshots(axes, curve, x, learned)
    for at, point, value in zip(x, curve, learned, strict=True):
        if point.get("chosen"):
            axes.plot([at], [value], "o", color=LEARNED, markersize=9, zorder=6, clip_on=False)
            side = "right" if at > (x[0] + x[-1]) / 2 else "left"
            axes.annotate(
                f"chosen: {value:.2f}x, {ms(point['validation_s'])} ms/token", (at, value),
                (0, -16), ha=side, textcoords="offset points", color=LEARNED, fontsize=9,
                fontweight="bold",
            )  # fmt: skip
    shown = [value for name in others for value in _within(record, name, x[-1])[1]]
    everything = [*learned, *drawn.values(), *(value for value in shown if value <= ceiling)]
    room = 0.12 * (max(everything) - min(everything) or max(everything))
    axes.set_ylim(min(everything) - room, max(everything) + room)
    axes.set_xlim(x[0], x[-1] if x[-1] > x[0] else x[0] + 1.0)
    axes.set_xlabel("CPU time of training, tuning not counted (s)" if timed else "steps")
    axes.set_ylabel("latency on validation traces\nover that of the rule at the start")
    _note(axes, _notes(record, others, len(rules) - len(drawn), max(everything)))
    name = learned_name(record) or "learned"
    colors = {label: color_of(record, label) for label in drawn} | {name: LEARNED}
    colors |= {recipe: _color(i) for i, recipe in enumerate(others)}
    label_ends(axes, {**drawn, **others, name: learned[-1]}, colors)
    return figure


def _draw_snapshots(
    axes: Axes, curve: list[Snapshot], x: list[float], learned: list[float]
) -> None:
    # A line for each learner from the common start; where there are several, each with its name.
    forms = list(dict.fromkeys(point["form"] for point in curve if point.get("form")))
    for i, form in enumerate(forms or [""]):
        at = [k for k, point in enumerate(curve) if k == 0 or point.get("form", "") == form]
        style = "-" if i == 0 else (0, (2, 1))
        shown = ([x[k] for k in at], [learned[k] for k in at])
        axes.plot(*shown, color=LEARNED, linewidth=2.4, linestyle=style, zorder=5)
        if len(forms) > 1:
            axes.annotate(
                f" {form}", (shown[0][-1], shown[1][-1]), (-4, 6), textcoords="offset points",
                ha="right", color=LEARNED, fontsize=8.5,
            )  # fmt: skip


def _draw_references(
    axes: Axes, record: Record, until_s: float, ceiling: float
) -> dict[str, float]:
    # Last values by recipe.
    ends = {}
    for i, name in enumerate(record.get("reference_curves", {})):
        x, y = _within(record, name, until_s)
        if len(x) > 1:
            axes.plot(x, y, color=_color(i), linewidth=1.6, linestyle=(0, (5, 1.5)), zorder=3)
            ends[name] = min(y[-1], ceiling)
    return ends


def _within(record: Record, name: str, until_s: float) -> tuple[list[float], list[float]]:
    """Seconds and ratios of a reference as long as the run lasted, and the next point."""
    curve = record["reference_curves"][name]["curve"]
    timed: list[Snapshot] = [point for point in curve if "cpu_s" in point]
    num = sum(point["cpu_s"] < until_s for point in timed) + 1
    return (
        [point["cpu_s"] for point in timed[:num]],
        [point["validation_s"] / timed[0]["validation_s"] for point in timed[:num]],
    )


def _color(index: int) -> str:
    return REFERENCES[index % len(REFERENCES)]


def _notes(record: Record, others: dict[str, float], num_hidden: int, highest: float) -> list[str]:
    notes = []
    if num_hidden:
        notes.append(f"{num_hidden} slower rule{'s' if num_hidden > 1 else ''} above {highest:.3g}")
    by_origin: dict[str, list[str]] = {}
    for name in others:
        by_origin.setdefault(_origin(record["reference_curves"][name]), []).append(name)
    notes += [f"{', '.join(names)}: {origin}" for origin, names in by_origin.items()]
    return notes


def _origin(reference: ReferenceCurve) -> str:
    if not reference.get("earlier"):
        return "trained in this run"
    commit = reference.get("commit")
    where = f", at commit {commit}" if commit else ""
    return f"not trained in this run, measured earlier{where}"


def _note(axes: Axes, notes: list[str]) -> None:
    axes.text(
        0.99, 0.985, "\n".join(notes), transform=axes.transAxes, fontsize=8.5, va="top",
        ha="right", color=INK, zorder=7,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.8},
    )  # fmt: skip
