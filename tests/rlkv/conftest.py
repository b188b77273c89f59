from __future__ import annotations

import pytest

from tests.rlkv.unrendered import save_one_pixel


@pytest.fixture(autouse=True)
def figures_are_not_rendered(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures are made, but rendered only for tests that are marked ``pictures``."""
    if not request.node.get_closest_marker("pictures"):
        save_one_pixel(monkeypatch)
