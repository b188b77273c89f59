from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv_agents.bundle import save_bundle
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_url import RedisURL
from rlkv_service.sidecar.sidecar import Sidecar, SidecarOptions
from tests.agents.small_scenario import random_network
from tests.service.sidecar.queue_client import Connect, QueueClient


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", random_network(), {})
    return tmp_path / "bundle"


@pytest.fixture
def sidecar(valkey: EmbeddedValkey, bundle: Path) -> Iterator[Sidecar]:
    with Sidecar(valkey.url, SidecarOptions(bundle)) as running:
        yield running
    assert running.failure is None


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients: list[QueueClient] = []

    def connected(url: RedisURL) -> QueueClient:
        clients.append(QueueClient(url))
        return clients[-1]

    yield connected
    for client in clients:
        client.connection.close()


@pytest.fixture
def client(valkey: EmbeddedValkey, connect: Connect) -> QueueClient:
    return connect(valkey.url)
