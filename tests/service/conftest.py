from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey


@pytest.fixture
def short_folder() -> Iterator[Path]:
    # Paths of unix sockets are short; pytest's are not.
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        yield Path(folder)


@pytest.fixture
def valkey(short_folder: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(short_folder)
    yield server
    server.stop()
