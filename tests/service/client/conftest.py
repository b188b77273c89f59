from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from tests.service.client.answering import Responder


@pytest.fixture
def responder(valkey: EmbeddedValkey) -> Iterator[Responder]:
    with Responder(valkey.url) as responder:
        yield responder
