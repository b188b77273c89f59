"""What a decision API allows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlkv_engine.errors import InputError
from rlkv_service.schema import MAX_BYTES
from rlkv_service.web_server.listening import is_loopback

DEFAULT_REQUESTS_PER_S = 1000.0
DEFAULT_MAX_BODY_BYTES = MAX_BYTES
DEFAULT_MAX_LISTENERS = 16


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """Limits of a decision API, and who may ask."""

    #: Hashes of the tokens that clients must show; None: nobody asks for any.
    token_file: Path | None = None
    #: Of one token, where its line says nothing else.
    requests_per_s: float = DEFAULT_REQUESTS_PER_S
    #: Longest body of a request.
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    #: Pages that watch at a time.
    max_listeners: int = DEFAULT_MAX_LISTENERS

    def __post_init__(self) -> None:
        """Raises ``InputError`` for what cannot be."""
        if not 0.0 < self.requests_per_s < float("inf"):
            raise InputError(f"requests_per_s must be above 0, got {self.requests_per_s:g}")
        if self.max_body_bytes < 1:
            raise InputError(f"max_body_bytes must be at least 1, got {self.max_body_bytes}")
        if self.max_listeners < 0:
            raise InputError(f"max_listeners must be 0 or more, got {self.max_listeners}")

    def check_host(self, host: str) -> None:
        """Raises ``InputError`` if others reach an address, and nobody asks them for a token."""
        if self.token_file is None and not is_loopback(host):
            raise InputError(
                f"{host} can be reached by others: give --token-file (rlkv token new makes one)"
            )
