from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from tests.service.decision_api.running_api import Api, new_service, running_api


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """For tests that leave nothing behind that others mind."""
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        server = EmbeddedValkey(Path(folder))
        try:
            with running_api(new_service(server.url)) as api:
                yield api
        finally:
            server.stop()
