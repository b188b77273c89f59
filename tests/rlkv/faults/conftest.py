from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rlkv.faults.system import System


@pytest.fixture(scope="session")
def one_system() -> Iterator[System]:
    # Paths of unix sockets are short; pytest's are not.
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        system = System(Path(folder))
        yield system
        system.stop()


@pytest.fixture
def system(one_system: System) -> Iterator[System]:
    yield one_system
    one_system.mend()
