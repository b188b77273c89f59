"""The picture of a calibration: iterations and copies as measured, and as the profile has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rlkv.report.palette import BEST, INK, LEARNED, RULE, add_axes, look, make_figure, to_png

if TYPE_CHECKING:
    from rlkv.calibration import Calibration


def calibration_png(calibration: Calibration) -> bytes:
    """PNG with a panel for iterations and one for copies."""
    profile, fit = calibration.profile, calibration.iteration_fit
    title = (
        f"{profile.name}: {len(calibration.iterations)} iterations, mean error"
        f" {fit.error_ratio:.1%} of one, {abs(fit.total_ratio - 1.0):.1%} of all together"
    )
    with look():
        figure = make_figure(4.0, title)
        grid = add_axes(figure, 1, 2)
        axes = grid[0][0]
        is_decode = np.array([s.prefill_tokens == 0 for s in calibration.iterations])
        copies = np.array([s.copied_blocks > 0 for s in calibration.iterations])
        for chosen, colour, label in (
            (is_decode & ~copies, LEARNED, "decode alone"),
            (~is_decode & ~copies, BEST, "with prefill"),
            (copies, RULE, "beside copies"),
        ):
            axes.plot(
                1e3 * fit.predicted_s[chosen],
                1e3 * fit.measured_s[chosen],
                ".",
                markersize=3,
                color=colour,
                label=label,
            )
        low, high = 1e3 * fit.predicted_s.min(), 1e3 * fit.predicted_s.max()
        axes.plot([low, high], [low, high], color=INK, linewidth=0.9)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("by the profile (ms)")
        axes.set_ylabel("measured (ms)")
        axes.set_title("an iteration", loc="left", fontsize=9.5, fontweight="bold")
        axes.legend(frameon=False, fontsize=8)

        axes = grid[0][1]
        for out, colour, label, block_s in (
            (True, LEARNED, "to the host", profile.swap_out_block_s),
            (False, BEST, "to the device", profile.swap_in_block_s),
        ):
            sizes = np.array([s.num_blocks for s in calibration.copies if s.out == out])
            took = np.array([s.took_s for s in calibration.copies if s.out == out])
            if not len(sizes):
                continue
            axes.plot(sizes, 1e3 * took, ".", markersize=4, color=colour, label=label)
            line = np.unique(sizes)
            axes.plot(line, 1e3 * (profile.swap_latency_s + line * block_s), color=colour)
        axes.plot([], [], color=RULE, label="lines: by the profile")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("blocks copied together")
        axes.set_ylabel("measured (ms)")
        axes.set_title("a copy", loc="left", fontsize=9.5, fontweight="bold")
        axes.legend(frameon=False, fontsize=8)
        return to_png(figure)
