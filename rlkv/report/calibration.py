"""The picture of how well pauses are known by predicted class, beside by tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlkv.report.palette import LEARNED, RULE, add_axes, look, make_figure, to_png

_COLORS = {"tool": RULE, "predicted": LEARNED}


def calibration_png(figures: Mapping[str, Mapping[str, Any]]) -> bytes:
    """PNG from what ``held_out_statistics`` returns: shares of pauses below predicted quantiles."""
    first = figures["tool"]
    title = (
        f"{first['trace']}: {first['num_pauses']:,} held-out pauses, share below each predicted"
        " quantile and loss at it"
    )
    with look():
        figure = make_figure(4.2, title)
        (shares, losses), *_ = add_axes(figure, 1, 2)
        shares.plot([0, 1], [0, 1], color="#c3c8cf", linewidth=1.0, zorder=1)
        for estimate, color in _COLORS.items():
            entry = figures[estimate]
            levels = [float(level) for level in entry["calibration"]]
            label = f"by {estimate}" if estimate == "tool" else f"by {estimate} class"
            shares.plot(levels, list(entry["calibration"].values()), "o-", color=color, label=label)
            losses.plot(levels, list(entry["pinball"].values()), "o-", color=color, label=label)
        shares.set_xlabel("predicted quantile")
        shares.set_ylabel("share of pauses below it")
        shares.set_xlim(0, 1)
        shares.set_ylim(0, 1)
        losses.set_xlabel("predicted quantile")
        losses.set_ylabel("pinball loss of log pause")
        losses.set_ylim(bottom=0)
        for axes in (shares, losses):
            axes.legend(frameon=False)
        return to_png(figure)
