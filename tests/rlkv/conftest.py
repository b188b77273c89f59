from __future__ import annotations

from typing import Any

import pytest

_PIXEL = [[0.0]]


@pytest.fixture(autouse=True)
def figures_are_not_rendered(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures are made, and saved as one pixel: rendering takes half a second each.

    They are rendered for tests that are marked ``pictures``, and in fixtures of whole modules.
    """
    if request.node.get_closest_marker("pictures"):
        return
    from matplotlib.figure import Figure
    from matplotlib.image import imsave

    def save(self: Figure, stream: Any, **options: Any) -> None:
        imsave(stream, _PIXEL, **options)

    monkeypatch.setattr(Figure, "savefig", save)
