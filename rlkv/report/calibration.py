"""The picture of a predictor's calibration beside that of the per-tool table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlkv.report.palette import LEARNED, RULE, add_axes, look, make_figure, to_png


def calibration_png(figures: Mapping[str, Any]) -> bytes:
    """PNG from what ``pause_statistics`` returns: shares of pauses below predicted quantiles."""
    with look():
        title = (
            f"{figures['trace']}: {figures['num_pauses']:,} held-out pauses, share below each"
            " predicted quantile and loss at it"
        )
        figure = make_figure(4.2, title)
        (shares, losses), *_ = add_axes(figure, 1, 2)
        shares.plot([0, 1], [0, 1], color="#c3c8cf", linewidth=1.0, zorder=1)
        for who, color in (("table", RULE), ("predictor", LEARNED)):
            entry = figures[who]
            levels = [float(level) for level in entry["calibration"]]
            label = "by the tool alone" if who == "table" else "predictor"
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
