"""Every picture of a report, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rlkv.report.comparisons import draw_gaps, draw_policies, draw_regret
from rlkv.report.curves import draw_load, draw_timeline
from rlkv.report.departures_picture import draw_departures
from rlkv.report.learning import draw_learning_curve
from rlkv.report.maps import draw_decision_map
from rlkv.report.palette import look, to_png
from rlkv.report.schema import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Name -> what draws it (None where the record lacks its data), in the order of the page.
PICTURES: dict[str, Callable[[Record], Figure | None]] = {
    "policies": draw_policies,
    "load": draw_load,
    "learning_curve": draw_learning_curve,
    "decision_map": draw_decision_map,
    "memory_timeline": draw_timeline,
    "gaps": draw_gaps,
    "departures": draw_departures,
}
#: The picture over all scenarios of a record.
REGRET = "regret"


def draw_pictures(record: Record) -> dict[str, bytes]:
    """PNGs of one scenario's record by name; those it has no data for are left out."""
    pngs = {name: _png(record, draw) for name, draw in PICTURES.items()}
    return {name: png for name, png in pngs.items() if png is not None}


def draw_regret_picture(record: Record) -> bytes | None:
    """PNG of the picture over all scenarios; None where there is but one."""
    return _png(record, draw_regret)


def _png(record: Record, draw: Callable[[Record], Figure | None]) -> bytes | None:
    with look():
        figure = draw(record)
        return None if figure is None else to_png(figure)
