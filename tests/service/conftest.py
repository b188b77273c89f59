from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey


@pytest.fixture
def valkey(short_folder: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(short_folder)
    yield server
    server.stop()
