"""The picture of the resume bench: why it matters what is done with the KV of a pause."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlkv.report.palette import VERBS, add_axes, look, make_figure, to_png

_FIGURE = re.compile(r"resume_s_(\w+)_(\d+)")


def resume_png(record: Mapping[str, Any]) -> bytes:
    """PNG with the wait for the first token by verb against the context, from a bench's record."""
    points: dict[str, list[tuple[int, float]]] = {}
    for figure, seconds in record["figures"].items():
        if match := _FIGURE.fullmatch(figure):
            points.setdefault(match[1], []).append((int(match[2]), 1e3 * seconds))
    title = (
        f"From a tool's return to the next token, by what became of the KV meanwhile"
        f" ({record['measured_on']['model']}, alone on the engine)"
    )
    with look():
        figure = make_figure(3.8, title)
        axes = add_axes(figure, 1, 1)[0][0]
        for verb, colour in VERBS:
            if verb not in points:
                continue
            tokens, milliseconds = zip(*sorted(points[verb]), strict=True)
            axes.plot(tokens, milliseconds, "o-", color=colour)
            label = f" {verb} {milliseconds[-1]:.3g}"
            axes.annotate(label, (tokens[-1], milliseconds[-1]), va="center", fontsize=9)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("context at the pause (tokens)")
        axes.set_ylabel("wait (ms)")
        axes.margins(x=0.12)
        return to_png(figure)
