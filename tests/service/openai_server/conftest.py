from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.openai_server.running_server import Running, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """One server for the tests of a file."""
    with running_server() as running:
        yield running
