"""Pictures of the two memory pools: text for a terminal, pixels for a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.state import State
from rlkv_envs.pixel_font import draw_text
from rlkv_envs.pools import DEVICE_STATES, HOST_STATES, Pools, Segment, read_pools

RENDER_MODES = ("ansi", "rgb_array")

Colour = tuple[int, int, int]

#: Characters of the states, and how many of them make a pool.
CHARACTERS = {
    "running": "█",
    "queued": "▆",
    "paused": "▓",
    "copying out": "▒",
    "reclaimable": "░",
    "of paused": "▓",
    "of others": "█",
    "reserved": "▒",
    "free": "·",
}
LINE_WIDTH = 96

BACKGROUND: Colour = (16, 20, 28)
INK: Colour = (222, 226, 233)
FAINT: Colour = (134, 143, 158)
HIGHLIGHT: Colour = (255, 255, 255)
COLOURS: dict[str, Colour] = {
    "running": (63, 185, 132),
    "queued": (240, 196, 88),
    "paused": (74, 137, 220),
    "copying out": (166, 112, 214),
    "reclaimable": (92, 106, 138),
    "of paused": (74, 137, 220),
    "of others": (63, 185, 132),
    "reserved": (166, 112, 214),
    "free": (33, 40, 52),
}

# The picture, in pixels and cells.
CELL, GAP, MARGIN = 9, 1, 20
COLUMNS, DEVICE_ROWS, HOST_ROWS = 72, 16, 12
TEXT_ROW = 22
WIDTH = 2 * MARGIN + COLUMNS * (CELL + GAP) - GAP
HEIGHT = 2 * MARGIN + 7 * TEXT_ROW // 2 + TEXT_ROW // 2 + (DEVICE_ROWS + HOST_ROWS) * (CELL + GAP)


def render(mode: str, stack: State, engine: int) -> str | NDArray[np.uint8]:
    """One engine of a stack as ``"ansi"`` text or an ``"rgb_array"`` of ``[HEIGHT, WIDTH, 3]``."""
    pools = read_pools(stack, engine)
    return render_text(pools) if mode == "ansi" else render_image(pools)


def render_text(pools: Pools) -> str:
    """Four lines a pool: bar, legend with shares, and the open question on top."""
    lines = [f"{pools.now_s:.2f} s: {pools.question}"]
    for tier, segments in (("device", pools.device), ("host", pools.host)):
        total = sum(segment.num_blocks for segment in segments)
        bar = "".join(CHARACTERS[segment.state] for segment in _cells(segments, LINE_WIDTH))
        shares = "  ".join(
            f"{CHARACTERS[state]} {state} {share:.0%}"
            for state, share in pools.shares(tier).items()
        )
        lines += [f"{tier:6} {bar}", f"{'':6} {shares}  of {total} blocks"]
    return "\n".join(lines)


def render_image(pools: Pools) -> NDArray[np.uint8]:
    """Grids of cells, each an equal share of its pool; the candidate of the decision is white."""
    image = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    x = draw_text(image, MARGIN, MARGIN, f"{pools.now_s:.2f} s", INK, scale=2)
    draw_text(image, x + 14, MARGIN + 6, pools.question, FAINT)
    y = MARGIN + TEXT_ROW + TEXT_ROW // 2
    for tier, segments, states, num_rows in (
        ("device", pools.device, DEVICE_STATES, DEVICE_ROWS),
        ("host", pools.host, HOST_STATES, HOST_ROWS),
    ):
        total = sum(segment.num_blocks for segment in segments)
        draw_text(image, MARGIN, y + 6, f"{tier}, {total} blocks", INK)
        _legend(image, y + 6, states, pools.shares(tier))
        y += TEXT_ROW
        _grid(image, y, _cells(segments, COLUMNS * num_rows), pools.candidate)
        y += num_rows * (CELL + GAP) + TEXT_ROW // 2
    return image[: y + MARGIN - TEXT_ROW // 2]


def _cells(segments: Sequence[Segment], num_cells: int) -> list[Segment]:
    # The segment in the middle of each of `num_cells` equal shares of a pool.
    ends = list(accumulate(segment.num_blocks for segment in segments))
    if not ends or ends[-1] == 0:
        return [Segment("free", -1, 0)] * num_cells
    middles = (np.arange(num_cells) + 0.5) * ends[-1] / num_cells
    return [segments[i] for i in np.searchsorted(ends, middles, side="right")]


def _grid(image: NDArray[np.uint8], y: int, cells: Sequence[Segment], candidate: int) -> None:
    for i, segment in enumerate(cells):
        row, column = divmod(i, COLUMNS)
        top, left = y + row * (CELL + GAP), MARGIN + column * (CELL + GAP)
        colour = HIGHLIGHT if segment.sid == candidate >= 0 else _shade(segment)
        image[top : top + CELL, left : left + CELL] = colour


def _shade(segment: Segment) -> Colour:
    # Neighbouring sessions get shades that are far apart.
    if segment.sid < 0:
        return COLOURS[segment.state]
    factor = 0.72 + 0.45 * (segment.sid * 0.618034 % 1.0)
    red, green, blue = (min(255, int(channel * factor)) for channel in COLOURS[segment.state])
    return red, green, blue


def _legend(
    image: NDArray[np.uint8], y: int, states: Sequence[str], shares: Mapping[str, float]
) -> None:
    # Right-aligned: a square, the state and its share, for each state.
    entries = [(state, f"{state} {shares[state]:.0%}") for state in states]
    x = WIDTH - MARGIN - sum(6 * len(text) + 24 for _, text in entries) + 12
    for state, text in entries:
        image[y - 1 : y + 8, x : x + 9] = COLOURS[state]
        x = draw_text(image, x + 13, y, text, FAINT) + 11
