from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.resp import RespConnection
from tests.service.client.answering import Responder


@pytest.fixture(scope="session")
def server_of_all() -> Iterator[EmbeddedValkey]:
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        server = EmbeddedValkey(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def valkey(server_of_all: EmbeddedValkey) -> EmbeddedValkey:
    """Empty, and the same for all: who kills one starts his own."""
    with RespConnection(server_of_all.url) as connection:
        connection.execute("FLUSHALL")
    return server_of_all


@pytest.fixture
def responder(valkey: EmbeddedValkey) -> Iterator[Responder]:
    with Responder(valkey.url) as responder:
        yield responder
