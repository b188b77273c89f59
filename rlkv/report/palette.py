"""One look for all pictures: colours by role, axes without ornament, titles that wrap."""

from __future__ import annotations

import io
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkv.report.schema import Record, best_rule_name, bounds, learned_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNED, BEST, RULE, BOUND = "#1c5fe6", "#e4570b", "#9aa1ab", "#5d6673"
#: Other recipes in the picture of learning.
REFERENCES = ("#7a4fbf", "#0b8f6a", "#b8860b")
INK, FAINT = "#1f2430", "#e3e6ea"
#: Colours and names of the verbs 0, 1 and 2.
VERBS = (("preserve", "#2a9d8f"), ("swap", "#f4b942"), ("discard", "#8d6a9f"))
#: Colours of the parts of the device pool, from below.
POOL = (
    ("running", "#39424f"),
    ("paused", "#2a9d8f"),
    ("pending", "#f4b942"),
    ("reclaimable", "#c3aecd"),
    ("free", "#f1f3f5"),
)
WIDTH_IN, DPI = 9.2, 160
_TITLE_COLUMNS = 88
#: What our PNGs say they were made by.
_SOFTWARE = "rlkv"

_STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": "#8b929c",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": "#4a515c",
    "ytick.color": "#4a515c",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


def look() -> AbstractContextManager[None]:
    """Everything drawn inside has the report's look."""
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def make_figure(height_in: float, title: str) -> Figure:
    """An empty figure of the report's width whose title says the finding."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout=layout)
    wrapped = textwrap.fill(title, _TITLE_COLUMNS, break_on_hyphens=False)
    figure.suptitle(wrapped, x=0.012, ha="left", fontsize=11.5, fontweight="bold")
    return figure


def add_axes(figure: Figure, rows: int = 1, columns: int = 1, **options: Any) -> list[list[Axes]]:
    """A grid of axes, by row."""
    return [list(row) for row in figure.subplots(rows, columns, squeeze=False, **options)]


def to_png(figure: Figure) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": _SOFTWARE})
    return stream.getvalue()


def is_own_png(path: Path) -> bool:
    """Is this a picture that ``to_png`` made?"""
    mark = b"tEXtSoftware\0" + _SOFTWARE.encode()
    try:
        with path.open("rb") as stream:
            return mark in stream.read(1024)
    except OSError:
        return False


def color_of(record: Record, name: str) -> str:
    """The colour of a policy by its role in the record."""
    if name == learned_name(record):
        return LEARNED
    if name == best_rule_name(record):
        return BEST
    return BOUND if name in bounds(record) else RULE


def line_style(record: Record, name: str) -> dict[str, Any]:
    """Colour, width, dashes and depth of a policy's line."""
    color = color_of(record, name)
    strong = color in (LEARNED, BEST)
    return {
        "color": color,
        "linewidth": 2.4 if strong else 1.1,
        "linestyle": (0, (4, 2.5)) if color == BOUND else "-",
        "zorder": {LEARNED: 5, BEST: 4, BOUND: 3}.get(color, 2),
        "alpha": 1.0 if strong else 0.9,
    }


def plain_log_ticks(axes: Axes, which: str, subs: tuple[float, ...] = (1, 2, 5)) -> None:
    """A logarithmic axis whose ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.0e}")
    )
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def label_ends(
    axes: Axes, ends: dict[str, float], colors: dict[str, str], size: float = 8.5
) -> None:
    """Names at the right edge of the axes at their last values, moved apart where they collide."""
    import numpy as np

    low, high = axes.get_ylim()
    logarithmic = axes.get_yscale() == "log"

    def height(value: float) -> float:
        value = min(max(value, min(low, high)), max(low, high))
        if logarithmic:
            return float(np.log(value / low) / np.log(high / low))
        return (value - low) / (high - low)

    inches = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    gap = size * 1.25 / 72.0 / max(inches, 0.5)
    names = sorted(ends, key=lambda name: ends[name])
    places = spread([height(ends[name]) for name in names], gap)
    for name, place in zip(names, places, strict=True):
        strong = colors[name] in (LEARNED, BEST)
        axes.annotate(
            name,
            (1.0, height(ends[name])),
            (1.035, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=colors[name] if colors[name] != RULE else "#6d747e",
            fontsize=size,
            fontweight="bold" if strong else "normal",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colors[name],
                "linewidth": 0.6,
                "relpos": (0.0, 0.5),
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def spread(places: list[float], gap: float) -> list[float]:
    """Ascending places moved as little as a few sweeps need so that they are ``gap`` apart."""
    moved = list(places)
    for _ in range(200):
        for i in range(len(moved) - 1):
            overlap = gap - (moved[i + 1] - moved[i])
            if overlap > 0:
                moved[i] -= overlap / 2
                moved[i + 1] += overlap / 2
        lift = -min(moved[0], 0.0) if moved else 0.0
        drop = max(moved[-1] - 1.0, 0.0) if moved else 0.0
        if lift and not drop:
            moved[0] += lift
        if drop and not lift:
            moved[-1] -= drop
    return moved
