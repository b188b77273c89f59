"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlkv_engine.errors import InputError


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits of a server, and its key."""

    #: What clients must show; None: nothing.
    api_key: str | None = field(default=None, repr=False)
    #: Sessions that have not ended; one more ends the one that was paused longest.
    max_sessions: int = 1024
    #: A session that is paused for so long ends, seconds.
    session_idle_s: float = 1800.0
    #: Longest body of a request.
    max_body_bytes: int = 16 * 2**20

    def __post_init__(self) -> None:
        """Raises ``InputError`` for what cannot be."""
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise InputError("the API key has characters that no HTTP header carries")
        if self.api_key is not None and not self.api_key.strip():
            raise InputError("the API key is empty")
        if self.max_sessions < 1:
            raise InputError(f"--max-sessions must be at least 1 (got {self.max_sessions})")
        if not self.session_idle_s > 0:
            raise InputError(f"--session-idle-s must be above 0 (got {self.session_idle_s})")
        if self.max_body_bytes < 1:
            raise InputError(f"--max-body-bytes must be at least 1 (got {self.max_body_bytes})")
