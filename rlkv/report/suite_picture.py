"""The picture of the suite: every policy's regret in every scenario, as a map with numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlkv.report.findings import digits
from rlkv.report.palette import INK, LEARNED, add_axes, look, make_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Ratios from which on the colour says no more.
_MAX_RATIO = 3.0
#: Columns between two groups of scenarios.
_GROUP_GAP = 0.35
_ROW_IN = 0.3


def draw_suite_picture(record: Mapping[str, Any]) -> bytes:
    """PNG: a row for each policy, a column for each scenario, unseen ones apart, then the means."""
    with look():
        return to_png(_draw(record["suite"], _sees_future(record)))


def _sees_future(record: Mapping[str, Any]) -> set[str]:
    return {
        name
        for part in (record, *record["also"])
        for name, entry in part["policies"].items()
        if entry["sees_future"]
    }


def _draw(suite: Mapping[str, Any], ahead: set[str]) -> Figure:
    kinds = list(dict.fromkeys(suite["suite_of"].values()))
    # Competitors by their mean, those that see the future below.
    names = sorted(suite["policies"], key=lambda name: name in ahead)
    figure = make_figure(2.7 + _ROW_IN * len(names), _title(suite, ahead, kinds))
    axes = add_axes(figure)[0][0]
    place = 0.0
    ticks: dict[float, str] = {}
    for kind in kinds:
        start = place
        for scenario, row in suite["scenarios"].items():
            if suite["suite_of"][scenario] != kind:
                continue
            _column(axes, place, names, {n: (f["ratio"], f["ci95"]) for n, f in row.items()})
            ticks[place] = scenario.removeprefix(f"{kind}-")
            place += 1.0
        means = {
            name: (found[kind]["geometric_mean"], found[kind]["ci95"])
            for name, found in suite["policies"].items()
        }
        _column(axes, place + 0.1, names, means)
        ticks[place + 0.1] = "geometric mean"
        axes.text(start - 0.5, -0.75, f"{kind} scenarios", fontweight="bold", fontsize=10)
        place += 1.1 + _GROUP_GAP
    _frame(axes, names, ticks, place - _GROUP_GAP, suite["learned"], ahead)
    return figure


def _column(
    axes: Axes,
    place: float,
    names: Sequence[str],
    found: Mapping[str, tuple[float, Sequence[float]]],
) -> None:
    from matplotlib.patches import Rectangle

    for row, name in enumerate(names):
        ratio, (low, high) = found[name]
        color, ink = _colors(ratio)
        axes.add_patch(Rectangle((place - 0.48, row - 0.46), 0.96, 0.92, color=color, linewidth=0))
        axes.text(
            place, row, digits(ratio) if ratio >= 10 else f"{ratio:.2f}", ha="center", va="center",
            fontsize=8, color=ink, fontweight="bold" if high < 1.0 else "normal",
            fontstyle="italic" if low <= 1.0 <= high and low < high else "normal",
        )  # fmt: skip


def _colors(ratio: float) -> tuple[Any, str]:
    # Blue below 1, white at 1, red above; the ink that can be read on it.
    import matplotlib
    import numpy as np

    strength = float(np.clip(np.log(ratio) / np.log(_MAX_RATIO), -1.0, 1.0))
    color = matplotlib.colormaps["RdBu_r"](0.5 + 0.5 * strength)
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return color, "white" if luminance < 0.5 else INK


def _frame(
    axes: Axes,
    names: Sequence[str],
    ticks: Mapping[float, str],
    width: float,
    learned: Sequence[str],
    ahead: set[str],
) -> None:
    axes.set_xlim(-0.55, width - 0.45)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xticks(
        list(ticks), list(ticks.values()), rotation=40, ha="right", rotation_mode="anchor"
    )
    labels = [f"{name} (sees the future)" if name in ahead else name for name in names]
    axes.set_yticks(range(len(names)), labels)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        if name in learned:
            label.set_color(LEARNED)
            label.set_fontweight("bold")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(
        "mean normalized latency / that of the reference tuned for the scenario\n"
        "bold: the 95 % interval lies below 1; italics: it holds 1",
        fontsize=8.5,
    )


def _title(suite: Mapping[str, Any], ahead: set[str], kinds: Sequence[str]) -> str:
    rivals = {
        name: found
        for name, found in suite["policies"].items()
        if name not in ahead and name != suite["reference"]
    }
    said = []
    for kind in kinds:
        if rivals:
            best = min(rivals, key=lambda name: float(rivals[name][kind]["geometric_mean"]))
            found = rivals[best][kind]
            said.append(
                f"{kind}: {best} {found['geometric_mean']:.2f}x, at worst {digits(found['max'])}x"
            )
    return (
        f"Latency against {suite['reference']} tuned for each scenario; the best other policy,"
        f" {'; '.join(said) or 'none'}"
    )
