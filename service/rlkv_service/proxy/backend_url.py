"""Where the backend is."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from rlkv_engine.errors import InputError


@dataclass(frozen=True, slots=True)
class BackendURL:
    """Scheme, place and path of a backend: ``http://HOST:PORT/PATH``."""

    host: str
    port: int
    tls: bool
    path: str  #: that all requests' paths are put behind; empty as a rule

    @classmethod
    def parse(cls, url: str) -> Self:
        """Reads it.

        Raises:
            InputError: it is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError(f"{url!r} is no URL: {error}") from error
        if parts.scheme not in ("http", "https"):
            raise InputError(f"{url!r} is not http:// or https://")
        if not parts.hostname:
            raise InputError(f"{url!r} has no host")
        if parts.username is not None or parts.query or parts.fragment:
            raise InputError(f"{url!r} has more than a host, a port and a path")
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise InputError(f"{url!r} has characters that no URL has")
        return cls(parts.hostname, port or (443 if tls else 80), tls, path)

    @property
    def authority(self) -> str:
        """What ``Host`` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        """As it is written."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"

    def tls_context(self) -> ssl.SSLContext | None:
        """Who is believed to be the backend; None: nobody has to show it."""
        return ssl.create_default_context() if self.tls else None
