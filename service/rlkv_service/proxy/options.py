"""What a proxy is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from rlkv_engine.errors import InputError
from rlkv_service.adapters.hints import BACKENDS, Mapper
from rlkv_service.proxy.backend_facts import VLLM_BACKENDS
from rlkv_service.proxy.backend_url import BackendURL
from rlkv_service.proxy.requests import Kind
from rlkv_service.redis_keys import DEFAULT_NAMESPACE
from rlkv_service.redis_url import RedisURL
from rlkv_service.web_server.listening import is_loopback

#: Backends that get no hints: nothing that they would understand.
UNHINTED = ("openai", "rlkv")
#: Engines that ask a sidecar themselves, with better facts, at the moment of the pause.
_ASKS_ITSELF = ("vllm",)
BACKEND_NAMES = (*sorted(BACKENDS), *UNHINTED)
#: Facts of a machine that a backend's metrics may not say.
MACHINE_FACTS = (
    "block_size", "num_device_blocks", "num_host_blocks", "max_num_seqs", "prefill_token_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyOptions:
    """Where a proxy's backend is, and what the proxy does for it."""

    url: BackendURL
    backend: str = "openai"  #: whose words hints are in, one of ``BACKEND_NAMES``
    #: Of the sidecar; None: nothing is asked and nothing reported.
    redis: RedisURL | None = None
    namespace: str = DEFAULT_NAMESPACE
    engine_id: str = "proxy"
    #: Whether requests carry verdicts; None: unless the engine asks for them itself.
    sends_verdicts: bool | None = None
    #: Hashes of the tokens that clients must show; None: nobody asks for any.
    token_file: Path | None = None
    #: Shown to the backend as ``Authorization: Bearer``; None: what the client shows passes, unless
    #: that is a token of the proxy's.
    backend_key: str | None = None
    lmcache: BackendURL | None = None
    #: What the machine is, where the backend's metrics do not say it.
    machine: Mapping[str, float] = field(default_factory=dict)
    max_body_bytes: int = 64 * 2**20
    max_sessions: int = 4096
    session_idle_s: float = 1800.0
    connect_timeout_s: float = 5.0
    silence_timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        """Raises ``InputError`` for what cannot be."""
        if self.backend not in BACKEND_NAMES:
            raise InputError(f"unknown backend {self.backend!r}: one of {', '.join(BACKEND_NAMES)}")
        if self.backend_key is not None and not (
            self.backend_key.isascii() and self.backend_key.isprintable()
        ):
            raise InputError("the backend's key has characters that no header has")
        for name in ("max_body_bytes", "max_sessions"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("session_idle_s", "connect_timeout_s", "silence_timeout_s"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} must be above 0, got {getattr(self, name):g}")
        for name, value in self.machine.items():
            if name not in MACHINE_FACTS:
                raise InputError(f"{name} is no fact of a machine")
            if not isfinite(value) or value < 0 or (value == 0 and name != "num_host_blocks"):
                raise InputError(f"{name} must be above 0, got {value:g}")

    def check_host(self, host: str) -> None:
        """Raises ``InputError`` if others reach an address, and nobody asks them for a token."""
        if self.token_file is None and not is_loopback(host):
            raise InputError(
                f"{host} can be reached by others: give --token-file (rlkv token new makes one)"
            )

    @property
    def authorization(self) -> bytes | None:
        """What the backend is shown; None: nothing of ours."""
        return None if self.backend_key is None else b"Bearer " + self.backend_key.encode()

    @property
    def passes_authorization(self) -> bool:
        """Whether what a client shows is for the backend."""
        return self.token_file is None and self.backend_key is None

    @property
    def mapper(self) -> Mapper | None:
        """From a verdict to the backend's words; None: it has none."""
        return BACKENDS.get(self.backend)

    @property
    def is_vllm(self) -> bool:
        """With the plug-in or without."""
        return self.backend in VLLM_BACKENDS

    def takes_fields(self, kind: Kind) -> bool:
        """Whether the backend knows its own fields in requests of an API."""
        if self.backend == "anthropic":
            return kind is Kind.MESSAGES
        if kind is Kind.RESPONSES:
            return self.is_vllm
        return kind in (Kind.CHAT, Kind.COMPLETIONS)

    @property
    def hints_verdicts(self) -> bool:
        """Whether requests carry verdicts."""
        if self.sends_verdicts is not None:
            return self.sends_verdicts
        return self.backend not in _ASKS_ITSELF
