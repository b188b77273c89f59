"""Figures that are saved without being rendered, which takes half a second each."""

from __future__ import annotations

from typing import Any

import pytest

_PIXEL = [[0.0]]


def save_one_pixel(patch: pytest.MonkeyPatch) -> None:
    """Whatever a figure shows, its file is a picture of one pixel."""
    from matplotlib.figure import Figure
    from matplotlib.image import imsave

    def save(self: Figure, stream: Any, **options: Any) -> None:
        imsave(stream, _PIXEL, **options)

    patch.setattr(Figure, "savefig", save)
