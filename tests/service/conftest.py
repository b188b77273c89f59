from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from tests.service.start_valkey import StartValkey


@pytest.fixture
def start_valkey(short_folder: Path) -> Iterator[StartValkey]:
    with ExitStack() as stack:

        def start(**options: str) -> EmbeddedValkey:
            server = EmbeddedValkey(short_folder, options)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def valkey(start_valkey: StartValkey) -> EmbeddedValkey:
    return start_valkey()
