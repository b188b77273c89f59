"""A connection to Redis or Valkey: RESP2 over a socket, every wait with a deadline.

No more than clients of the decision API need, so that they need nothing installed.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from typing import Self

from rlkv_service.redis_errors import RedisError, RedisReplyError, RedisTimeout
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp_parser import Reply, RespParser, Word, encode_command

_CHUNK_BYTES = 1 << 16
#: What a socket says when it would have to wait.
_WOULD_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError, TimeoutError)


class RespConnection:
    """One connection. Not for several threads at once.

    Args:
        url: the server.
        timeout_s: for connecting, and for replies where no deadline is given.

    Raises:
        RedisError: the server cannot be reached, or refuses who we are.
    """

    def __init__(self, url: RedisURL, timeout_s: float = 5.0) -> None:
        self._timeout_s = timeout_s
        self._parser = RespParser()
        self._replies: deque[Reply] = deque()
        self._socket = _connect(url, timeout_s)
        # A timeout of the socket would be set anew for each wait, and cost a system call each.
        self._socket.setblocking(False)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._socket, select.POLLIN)
        self._writable.register(self._socket, select.POLLOUT)
        try:
            for words in greeting(url):
                self.execute(*words)
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
        replies = [self.receive(deadline_s) for _ in commands]
        if self._replies:
            # The next command would take it for its own.
            raise self._lost(RedisError(f"a reply to nothing: {str(self._replies[0])[:80]}"))
        return replies

    def send(self, raw: bytes, deadline_s: float | None = None) -> None:
        """Sends encoded commands, without waiting for replies."""
        now_s = time.monotonic()
        deadline_s = now_s + self._timeout_s if deadline_s is None else deadline_s
        if deadline_s <= now_s:
            self._check_open()
            raise self._lost(RedisTimeout("the deadline passed before anything was sent"))
        if (sent := self.send_some(raw)) < len(raw):
            self._send_rest(memoryview(raw)[sent:], deadline_s)

    def receive(self, deadline_s: float | None = None) -> Reply:
        """The next reply; one that was refused is a RedisReplyError, not raised.

        Raises:
            RedisError: there is none by the deadline. Replies are under way that nobody waits for,
                and the connection is closed.
        """
        self._check_open()
        if not self._replies and deadline_s is None:
            deadline_s = time.monotonic() + self._timeout_s
        while not self._replies:
            assert deadline_s is not None
            if time.monotonic() >= deadline_s:
                raise self._lost(RedisTimeout("no reply by the deadline"))
            self._fill(deadline_s)
        return self._replies.popleft()

    def wait(self, deadline_s: float) -> list[Reply]:
        """The replies that are there, once there is one; none at the deadline.

        The connection goes on: whoever uses this knows which commands have no reply yet. With a
        deadline that has passed it takes what has come and does not wait.

        Raises:
            RedisError: the connection is lost, and closed.
        """
        self._check_open()
        while True:
            came = self._fill(deadline_s)
            if self._replies or not came:
                replies = list(self._replies)
                self._replies.clear()
                return replies

    def send_some(self, raw: bytes | memoryview) -> int:
        """Sends as much as goes without waiting; how many bytes that were."""
        self._check_open()
        try:
            return self._socket.send(raw)
        except _WOULD_WAIT:
            return 0
        except OSError as error:
            raise self._lost(RedisError(f"the server is gone: {error}")) from error

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

    def _send_rest(self, raw: memoryview, deadline_s: float) -> None:
        while raw:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0.0:
                raise self._lost(RedisTimeout("the server does not take what is sent"))
            self._writable.poll(1e3 * left_s)
            raw = raw[self.send_some(raw) :]

    def _fill(self, deadline_s: float) -> bool:
        """Receives once, and what TLS has decrypted with it; whether anything came in time."""
        if not (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            left_s = deadline_s - time.monotonic()
            if not self._readable.poll(1e3 * left_s if left_s > 0.0 else 0):
                return False
        try:
            chunk = self._socket.recv(_CHUNK_BYTES)
        except _WOULD_WAIT:
            # With TLS: that was no whole record.
            return time.monotonic() < deadline_s
        except OSError as error:
            raise self._lost(RedisError(f"the server is gone: {error}")) from error
        if not chunk:
            raise self._lost(RedisError("the server has closed the connection"))
        try:
            self._replies += self._parser.feed(chunk)
        except RedisError as error:
            raise self._lost(error) from error
        return True

    def _check_open(self) -> None:
        if self.is_closed:
            raise RedisError("the connection is closed")

    def _lost(self, error: RedisError) -> RedisError:
        self.close()
        return error


def greeting(url: RedisURL) -> list[tuple[Word, ...]]:
    """The commands with which a connection begins."""
    commands: list[tuple[Word, ...]] = []
    if url.password:
        commands.append(("AUTH", *([url.username] if url.username else []), url.password))
    if url.db:
        commands.append(("SELECT", url.db))
    return commands


def tls_context(url: RedisURL) -> ssl.SSLContext:
    """For ``rediss://``: the server must prove who it is.

    Raises:
        OSError: a file of certificates cannot be read or used.
    """
    context = ssl.create_default_context(cafile=url.ssl_ca_certs)
    if url.ssl_certfile:
        context.load_cert_chain(url.ssl_certfile, url.ssl_keyfile)
    return context


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
            return tls_context(url).wrap_socket(plain, server_hostname=url.host)
        except (OSError, ValueError):
            plain.close()
            raise
    except (OSError, ValueError) as error:
        raise RedisError(f"{url} cannot be reached: {error}") from error
