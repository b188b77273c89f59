"""The picture of departures: how often a policy leaves its rule, by who asks and what it sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlkv.report.explanation import about_departures, percent
from rlkv.report.palette import VERBS, add_axes, look, make_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rlkv.report.schema import DeparturesBin, Explanation, QuantityDepartures, Record

_WHO = {"NEW": "a new session", "RESUME": "a returning session", "DECODE": "a decoding session"}


def draw_departures(record: Record) -> Figure | None:
    """The picture of a record's explanation; None if there is none or nothing departs."""
    explanation = record.get("explanation")
    return None if explanation is None else departures_figure(explanation)


def departures_png(explanation: Explanation) -> bytes | None:
    """The same as a PNG of its own."""
    with look():
        figure = departures_figure(explanation)
        return None if figure is None else to_png(figure)


def departures_figure(explanation: Explanation) -> Figure | None:
    """A row for each that asks and departs, a column for each quantity, a bar for each bin."""
    # What is all in one bin tells nothing, nor does what the context tells on one machine.
    quantities = {
        name: quantity
        for name, quantity in explanation["departures"]["quantities"].items()
        if len(quantity["edges"]) > 2 and name != "link"
    }
    asked = [
        who
        for who, part in explanation["departures"]["requesters"].items()
        if part["departed"] and all(who in q["requesters"] for q in quantities.values())
    ]
    if not asked or not quantities:
        return None
    figure = make_figure(1.6 + 1.9 * len(asked), about_departures(explanation))
    grid = add_axes(figure, len(asked), len(quantities), sharey=True)
    for row, who in zip(grid, asked, strict=True):
        for axes, quantity in zip(row, quantities.values(), strict=True):
            _bars(axes, quantity["requesters"][who])
            axes.set_xticks(
                [i - 0.5 for i in range(len(quantity["edges"]))], _ticks(quantity, explanation),
                fontsize=7,
            )  # fmt: skip
            if row is grid[0]:
                axes.set_title(_title(quantity), loc="left", fontsize=8.5, fontweight="bold")
        part = explanation["departures"]["requesters"][who]
        row[0].set_ylabel(
            f"{_WHO.get(who, who)}\n({percent(part['decisions'])} of decisions)\n\ndeparts (%)",
            fontsize=8,
        )
    _legend(figure)
    return figure


def _bars(axes: Axes, bins: list[DeparturesBin]) -> None:
    places = range(len(bins))
    bottom = [0.0] * len(bins)
    for verb, (_, color) in enumerate(VERBS):
        heights = [100.0 * part["verbs"][verb] for part in bins]
        axes.bar(places, heights, bottom=bottom, color=color, width=0.9)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for place, part in zip(places, bins, strict=True):
        if part["decisions"] == 0.0:
            axes.text(place, 2.0, "-", ha="center", fontsize=7)
    axes.set_xlim(-0.5, max(len(bins), 1) - 0.5)
    axes.set_ylim(0.0, 100.0)
    axes.grid(True, axis="y")


def _ticks(quantity: QuantityDepartures, explanation: Explanation) -> list[str]:
    edges = quantity["edges"]
    if quantity["unit"] == "share of the pool":
        return [_short(100.0 * edge) for edge in edges]
    if quantity["unit"] == "mean pauses":
        return [_short(edge * explanation["mean_pause_s"]) for edge in edges]
    return [_short(edge / 1000.0) for edge in edges]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10.0 else f"{value:.1f}" if value >= 1.0 else f"{value:.1g}"


def _title(quantity: QuantityDepartures) -> str:
    units = {"share of the pool": "%", "mean pauses": "s", "tokens": "1000 tokens"}
    words = quantity["title"].split(" ")
    half = (len(words) + 1) // 2 if len(quantity["title"]) > 18 else len(words)
    lines = [" ".join(words[:half]), " ".join(words[half:])]
    return "\n".join(line for line in lines if line) + f" ({units[quantity['unit']]})"


def _legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=color, label=f"{verb} instead") for verb, color in VERBS]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
