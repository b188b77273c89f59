from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.vllm.engine import TestEngine

HERE = Path(__file__).parent
HAS_VLLM = find_spec("vllm") is not None

# The engine in this process, where a test sees its block pool.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

# Elsewhere these files cannot even be imported.
collect_ignore_glob = [] if HAS_VLLM else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("vllm")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.vllm.tiny_model import write_tiny_model

    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def shared_engine(model_folder: Path) -> Iterator[TestEngine]:
    from tests.vllm.engine import TestEngine

    engine = TestEngine(model_folder, {"policy": "discard", "host_gib": 0.05})
    yield engine
    engine.close()


@pytest.fixture
def engine(shared_engine: TestEngine) -> Iterator[TestEngine]:
    """With the plug-in and a host tier; requests say what becomes of them. Left as it was found."""
    with shared_engine.lent() as lent:
        yield lent
