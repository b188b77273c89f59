from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.service.proxy.raw_backend import RawBackend, raw_backend


@pytest.fixture
def backend() -> Iterator[RawBackend]:
    with raw_backend() as backend:
        yield backend
