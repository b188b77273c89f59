from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv.real_vllm.model_folder import write_model_folder
from rlkv.real_vllm.server import VllmServer
from tests.vllm.server.agent import NUM_BLOCKS
from tests.vllm.server.deployment import Deployment


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "model"
    write_model_folder(folder)
    return folder


@pytest.fixture(scope="session")
def deployment(served_model: Path) -> Iterator[Deployment]:
    """Two servers that start side by side, and a sidecar for one of them."""
    # Paths of unix sockets are short; pytest's are not.
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        running = Deployment(Path(folder), served_model, NUM_BLOCKS)
        try:
            running.wait()
            yield running
        finally:
            running.stop()


@pytest.fixture
def stock(deployment: Deployment) -> VllmServer:
    return deployment.stock


@pytest.fixture
def plugged(deployment: Deployment) -> VllmServer:
    return deployment.plugged
