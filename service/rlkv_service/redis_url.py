"""Where a Redis or Valkey server is: URLs as redis-py writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from rlkv_engine.errors import InputError

DEFAULT_PORT = 6379
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS = ("db", *_TLS_OPTIONS)


@dataclass(frozen=True, slots=True)
class RedisURL:
    """A server and who we are there.

    ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` the same over TLS (with
    ``ssl_ca_certs``, ``ssl_certfile`` and ``ssl_keyfile`` as query parameters), or
    ``unix://[[user]:password@]/path/to/socket[?db=0]``.
    """

    host: str = ""
    port: int = DEFAULT_PORT
    path: str = ""  #: of a unix socket; empty: TCP
    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    tls: bool = False
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    @classmethod
    def parse(cls, url: str) -> RedisURL:
        """Reads an URL.

        Raises:
            InputError: it is none of these; the text does not repeat the password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # The error's text may have a part of a password that is not quoted.
            raise InputError(
                "no URL of a Redis server: is its port a number, and are '/', '@', '#' and '?' in"
                " its password written as %2F, %40, %23 and %3F?",
                path="redis",
            ) from None
        if parts.scheme not in ("redis", "rediss", "unix"):
            given = f"{parts.scheme}://" if parts.scheme else "an URL without a scheme"
            raise InputError(f"{given} is not redis://, rediss:// or unix://", path="redis")
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        for name in options:
            if name not in _OPTIONS:
                raise InputError(
                    f"option {name!r} is not one of {', '.join(_OPTIONS)}", path="redis"
                )
            if name in _TLS_OPTIONS and parts.scheme != "rediss":
                raise InputError(
                    f"{name} needs rediss://, {parts.scheme}:// has no TLS", path="redis"
                )
        is_unix = parts.scheme == "unix"
        db = options.pop("db", "" if is_unix else parts.path.strip("/")) or "0"
        if not db.isdecimal():
            raise InputError("its database is not a number", path="redis")
        if is_unix and not parts.path:
            raise InputError("unix:// needs the path of a socket", path="redis")
        return cls(
            host="" if is_unix else parts.hostname or "localhost",
            port=port or DEFAULT_PORT,
            path=unquote(parts.path) if is_unix else "",
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            db=int(db),
            tls=parts.scheme == "rediss",
            **options,
        )

    def __str__(self) -> str:
        """For people: without the password."""
        user = f"{self.username}@" if self.username else ""
        if self.path:
            return f"unix://{user}{self.path}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        place = f"redis{'s' * self.tls}://{user}{host}:{self.port}"
        return place + (f"/{self.db}" if self.db else "")
