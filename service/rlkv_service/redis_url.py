"""Where a Redis or Valkey server is: URLs as redis-py writes them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from rlkv_engine.errors import InputError

DEFAULT_PORT = 6379
_OPTIONS = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


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
    password: str = ""
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
        except ValueError as error:
            raise InputError(f"no URL of a Redis server: {error}", path="redis") from error
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise InputError(
                f"{parts.scheme or url!r} is not redis://, rediss:// or unix://", path="redis"
            )
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        for name in options:
            if name not in _OPTIONS:
                raise InputError(
                    f"option {name!r} is not one of {', '.join(_OPTIONS)}", path="redis"
                )
        is_unix = parts.scheme == "unix"
        db = options.pop("db", "" if is_unix else parts.path.strip("/")) or "0"
        if not db.isdecimal():
            raise InputError(f"database {db!r} is not a number", path="redis")
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
            return f"unix://{user}{self.path}?db={self.db}"
        return f"redis{'s' * self.tls}://{user}{self.host}:{self.port}/{self.db}"
