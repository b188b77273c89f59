"""The figures of InferCept that we look for, and when we say that one comes out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: A figure comes out if it is within this share of the published one ...
TOLERANCE = 0.3
#: ... and, where it is a ratio, if its logarithm is within this factor too: near 1 the share alone
#: would let everything pass.
EFFECT_FACTOR = 1.5
#: A ratio crosses 1 where it was above by this much and ends below by as much.
HOVER = 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """One published figure: a name, its value or range, and where to find ours."""

    name: str
    published: str
    low: float  #: what was published, or the lower end of it
    high: float
    #: The figure is a ratio of two systems: its side of 1 counts, and how far from 1 it is.
    is_ratio: bool
    #: Ours; None where it was not measured, NaN where there is none.
    figure: Callable[[dict[str, Any]], float | None]

    def verdict(self, ours: float | None) -> str:
        """``comes out``, ``direction only``, ``does not`` or ``not measured``."""
        if ours is None:
            return "not measured"
        near = self.low * (1 - TOLERANCE) <= ours <= self.high * (1 + TOLERANCE)
        if not self.is_ratio or math.isnan(ours):
            return "comes out" if near else "does not"
        effect = math.log(ours) / math.log(self.low)
        if effect <= 0:
            return "does not"
        near = near and 1 / EFFECT_FACTOR <= effect <= EFFECT_FACTOR
        return "comes out" if near else "direction only"


def _at(*path: str) -> Callable[[dict[str, Any]], float | None]:
    def find(figures: dict[str, Any]) -> float | None:
        value: Any = figures
        for key in path:
            value = value.get(key) if value is not None else None
        return None if value is None else float(value)

    return find


def _crossing(runs: str, ratio: str) -> Callable[[dict[str, Any]], float | None]:
    """Pause at which a ratio falls through 1, seconds; NaN where it does not, or hovers there."""

    def find(figures: dict[str, Any]) -> float | None:
        points = [(float(pause_s), entry[ratio]) for pause_s, entry in figures[runs].items()]
        if any(value is None for _, value in points):
            return None
        if max(value for _, value in points) < 1 + HOVER or points[-1][1] > 1 - HOVER:
            return math.nan
        for (short, above), (long, below) in itertools.pairwise(points):
            if above >= 1 > below:
                part = (above - 1) / (above - below)
                return float(short * (long / short) ** part)
        return math.nan

    return find


SHAPES = (
    Shape("preserve / discard, virtual environments of the data file (5.35 calls)",
          "3.05", 3.05, 3.05, True, _at("ve_file", "preserve_over_discard")),
    Shape("preserve / discard, virtual environments of Table 1 (28.18 calls)",
          "3.05", 3.05, 3.05, True, _at("ve_table_1", "preserve_over_discard")),
    Shape("discard, virtual environments of the data file, tokens/s",
          "3340.6", 3340.6, 3340.6, False, _at("ve_file", "discard_tokens_per_s")),
    Shape("preserve, virtual environments of the data file, tokens/s",
          "10182.4", 10182.4, 10182.4, False, _at("ve_file", "preserve_tokens_per_s")),
    Shape("naive swap, virtual environments of the data file, tokens/s",
          "1900", 1900, 1900, False, _at("ve_file", "swap_tokens_per_s")),
    Shape("naive swap / discard, virtual environments of the data file",
          "0.57", 0.57, 0.57, True, _at("ve_file", "swap_over_discard")),
    Shape("naive swap / discard, chat with pauses of 3 s",
          "0.97", 0.97, 0.97, True, _at("chat", "3.02", "swap_over_discard")),
    Shape("pause where discard overtakes preserve, chat, all prompts to the end, s",
          "3-10", 3.02, 10.02, False, _crossing("chat", "preserve_over_discard")),
    Shape("the same with a backlog, and returning sessions first, s",
          "3-10", 3.02, 10.02, False,
          _crossing("chat_backlog", "preserve_over_improved_discard")),
    Shape("recompute's share of forward time, vLLM discard, mixture, at its knee",
          "0.37-0.40", 0.37, 0.40, False, _at("mixture", "recompute_time_ratio_at_knee")),
    Shape("the same in overload (the highest rate)",
          "0.37-0.40", 0.37, 0.40, False, _at("mixture", "recompute_time_ratio_in_overload")),
    Shape("rate of InferCept / vLLM at equal normalized latency, mixture",
          "1.6", 1.6, 1.6, True, _at("mixture", "rate_ratio_median")),
    Shape("latency of ImprovedDiscard / vLLM past the knee, mixture (13B in the paper)",
          "0.755", 0.755, 0.755, True, _at("mixture", "improved_over_vllm_past_knee")),
)  # fmt: skip
