from __future__ import annotations

from typing import Protocol

from rlkv_service.embedded_valkey import EmbeddedValkey


class StartValkey(Protocol):
    """Starts a server, on the same folder each time, which ends with the test, failed or not."""

    def __call__(self, **options: str) -> EmbeddedValkey: ...
