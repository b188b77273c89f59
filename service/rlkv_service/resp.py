"""A connection to Redis or Valkey: RESP2 over a socket, every wait with a deadline.

No more than clients of the decision API need, so that they need nothing installed. What waits
beyond its deadline leaves answers under way: such a connection is closed, not used again.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any, Self

from rlkv_engine.errors import RlkvError
from rlkv_service.redis_url import RedisURL

Word = bytes | str | int | float
#: What a reply is: text, a number, nothing, or a list of these. An error reply inside a pipeline.
Reply = Any

_CHUNK_BYTES = 1 << 16
#: A reply longer than this is not from a server that we know.
MAX_REPLY_BYTES = 1 << 29
_MAX_DEPTH = 8


class RedisError(RlkvError):
    """The server cannot be reached, does not speak RESP, or has closed the connection."""


class RedisTimeout(RedisError):
    """The deadline passed."""


class RedisReplyError(RedisError):
    """The server refused a command; the text is its own."""


def encode_command(*words: Word) -> bytes:
    """A command as RESP."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts += (b"$%d\r\n" % len(raw), raw, b"\r\n")
    return b"".join(parts)


class RespConnection:
    """One connection. Not for several threads at once.

    Args:
        url: the server.
        timeout_s: for connecting, and for replies where no deadline is given.

    Raises:
        RedisError: the server cannot be reached, or refuses who we are.
    """

    def __init__(self, url: RedisURL, timeout_s: float = 5.0) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._buffer = bytearray()
        self._read = 0  # of the buffer, so much is done with
        self._socket = _connect(url, timeout_s)
        try:
            self._greet()
        except RedisError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def execute(self, *words: Word, deadline_s: float | None = None) -> Reply:
        """Sends a command, and its reply.

        Args:
            words: the command.
            deadline_s: by ``time.monotonic``; without one, the connection's timeout from now.

        Raises:
            RedisReplyError: the server refused it.
            RedisError: there is no reply; the connection is closed.
        """
        (reply,) = self.pipeline([words], deadline_s=deadline_s)
        if isinstance(reply, RedisReplyError):
            raise reply
        return reply

    def pipeline(
        self, commands: Sequence[Sequence[Word]], *, deadline_s: float | None = None
    ) -> list[Reply]:
        """Sends commands at once, and their replies; one that was refused is a RedisReplyError."""
        self.send(b"".join(encode_command(*words) for words in commands), deadline_s)
        return [self.receive(deadline_s) for _ in commands]

    def send(self, raw: bytes, deadline_s: float | None = None) -> None:
        """Sends encoded commands, without waiting for replies."""
        try:
            self._wait_until(deadline_s)
            self._socket.sendall(raw)
        except TimeoutError as error:
            raise self._lost(RedisTimeout("the server does not take what is sent")) from error
        except OSError as error:
            raise self._lost(RedisError(f"the server is gone: {error}")) from error

    def receive(self, deadline_s: float | None = None) -> Reply:
        """The next reply; one that was refused is a RedisReplyError, not raised."""
        deadline_s = time.monotonic() + self._timeout_s if deadline_s is None else deadline_s
        try:
            return self._reply(deadline_s, 0)
        except (ValueError, IndexError) as error:
            raise self._lost(RedisError(f"the server does not speak RESP: {error}")) from error

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    @property
    def is_closed(self) -> bool:
        """Whether it cannot be used any more."""
        return self._socket.fileno() < 0

    def fileno(self) -> int:
        """Of the socket, for ``select``."""
        return self._socket.fileno()

    def _greet(self) -> None:
        url = self._url
        if url.password:
            self.execute("AUTH", *([url.username] if url.username else []), url.password)
        if url.db:
            self.execute("SELECT", url.db)

    def _reply(self, deadline_s: float, depth: int) -> Reply:
        line = self._line(deadline_s)
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._bulk(size, deadline_s)
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"-":
            return RedisReplyError(rest.decode(errors="replace"))
        if kind == b"*":
            if depth == _MAX_DEPTH:
                raise ValueError("nested too deep")
            count = int(rest)
            return None if count < 0 else [self._reply(deadline_s, depth + 1) for _ in range(count)]
        raise ValueError(f"a reply begins with {bytes(kind)!r}")

    def _line(self, deadline_s: float) -> bytes:
        while (end := self._buffer.find(b"\r\n", self._read)) < 0:
            if len(self._buffer) - self._read > _CHUNK_BYTES:
                raise ValueError("a line without end")
            self._fill(deadline_s)
        line = bytes(self._buffer[self._read : end])
        self._read = end + 2
        return line

    def _bulk(self, size: int, deadline_s: float) -> bytes:
        if size > MAX_REPLY_BYTES:
            raise ValueError(f"a reply of {size} bytes")
        while len(self._buffer) - self._read < size + 2:
            self._fill(deadline_s)
        raw = bytes(self._buffer[self._read : self._read + size])
        if self._buffer[self._read + size : self._read + size + 2] != b"\r\n":
            raise ValueError("a text does not end where it should")
        self._read += size + 2
        return raw

    def _fill(self, deadline_s: float) -> None:
        if self._read:
            del self._buffer[: self._read]
            self._read = 0
        try:
            self._wait_until(deadline_s)
            chunk = self._socket.recv(_CHUNK_BYTES)
        except TimeoutError as error:
            raise self._lost(RedisTimeout("no reply by the deadline")) from error
        except OSError as error:
            raise self._lost(RedisError(f"the server is gone: {error}")) from error
        if not chunk:
            raise self._lost(RedisError("the server has closed the connection"))
        self._buffer += chunk

    def _wait_until(self, deadline_s: float | None) -> None:
        if self.is_closed:
            raise RedisError("the connection is closed")
        left_s = self._timeout_s if deadline_s is None else deadline_s - time.monotonic()
        if left_s <= 0.0:
            raise TimeoutError
        self._socket.settimeout(left_s)

    def _lost(self, error: RedisError) -> RedisError:
        self.close()
        return error


def _connect(url: RedisURL, timeout_s: float) -> socket.socket:
    try:
        if url.path:
            unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            unix.settimeout(timeout_s)
            try:
                unix.connect(url.path)
            except OSError:
                unix.close()
                raise
            return unix
        plain = socket.create_connection((url.host, url.port), timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not url.tls:
            return plain
        try:
            context = ssl.create_default_context(cafile=url.ssl_ca_certs)
            if url.ssl_certfile:
                context.load_cert_chain(url.ssl_certfile, url.ssl_keyfile)
            return context.wrap_socket(plain, server_hostname=url.host)
        except (OSError, ValueError):
            plain.close()
            raise
    except (OSError, ValueError) as error:
        raise RedisError(f"{url} cannot be reached: {error}") from error
