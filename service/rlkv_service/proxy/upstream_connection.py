"""One connection to the backend: a request out, its response in, piece by piece as it comes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from rlkv_engine.errors import RlkvError

#: Of a response that its client does not take so much waits here; then the backend waits.
_MAX_WAITING_BYTES = 256 * 2**10
#: Of all headers of a response.
_MAX_HEAD_BYTES = 256 * 2**10

Headers = list[tuple[bytes, bytes]]


class UpstreamError(RlkvError):
    """The backend cannot be reached, or does not answer as HTTP wants it.

    Args:
        reason: in words.
        kind: ``unreachable``, ``lost``, ``timeout`` or ``invalid``.
        untouched: whether the backend cannot have begun to answer.
    """

    def __init__(self, reason: str, kind: str, untouched: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.untouched = kind, untouched


class UpstreamConnection(asyncio.Protocol):
    """HTTP/1.1 on one socket, one request after the other.

    Args:
        on_lost: told when the connection ends.
    """

    def __init__(self, on_lost: Callable[[UpstreamConnection], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._num_waiting = 0
        self._reading_paused = False
        self._is_busy = False
        self.num_requests = 0
        self.last_data_s = time.monotonic()
        self._begin("")

    def _begin(self, method: str) -> None:
        self._method = method
        self.status = 0
        self.headers: Headers = []
        self._num_head_bytes = 0
        self._has_head = self._is_complete = self._got_bytes = False
        self._ends_with_connection = False
        self._keeps_alive = False
        self._error: UpstreamError | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def may_be_used_again(self) -> bool:
        """Whether the response is over and the connection is not."""
        return self._is_complete and self._keeps_alive and self.is_open

    def send(self, method: str, head: bytes, body: bytes) -> None:
        """Sends a request; the response to the last one is over."""
        assert self._transport is not None
        self._begin(method)
        self._is_busy = True
        self.num_requests += 1
        self.last_data_s = time.monotonic()
        self._transport.write(head + body if len(body) < 2**16 else head)
        if len(body) >= 2**16:
            self._transport.write(body)

    async def read_head(self) -> None:
        """Waits for ``status`` and ``headers``.

        Raises:
            UpstreamError: there will be none.
        """
        while not self._has_head:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read_body(self) -> bytes:
        """The next piece of the body as soon as there is one; empty: it is over.

        Raises:
            UpstreamError: it breaks off.
        """
        while not self._chunks:
            if self._is_complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        if len(self._chunks) == 1:
            piece = self._chunks.popleft()
        else:
            piece = b"".join(self._chunks)
            self._chunks.clear()
        self._num_waiting = 0
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return piece

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of the body."""
        return self._is_complete and not self._chunks

    def release(self) -> None:
        """The response has been read."""
        self._is_busy = False

    def fail(self, error: UpstreamError) -> None:
        """Ends the connection; who reads hears why."""
        if self._error is None and not self._is_complete:
            self._error = error
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def close(self) -> None:
        """Ends the connection."""
        self.fail(UpstreamError("the connection was closed", "lost"))

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        self.last_data_s = time.monotonic()
        if not self._is_busy or self._is_complete:
            self.close()  # nobody has asked
            return
        self._got_bytes = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._is_complete:
                self._keeps_alive = False
                self._transport.close() if self._transport is not None else None
            else:
                self.fail(UpstreamError(f"the backend's answer is no HTTP: {error}", "invalid"))
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is not open any more."""
        if self._is_busy and not self._is_complete and self._error is None:
            if exc is None and self._has_head and self._ends_with_connection:
                self._is_complete = True
            else:
                said = "the backend closed the connection"
                if self._has_head:
                    said += " in the middle of its answer"
                self._error = UpstreamError(said, "lost", untouched=not self._got_bytes)
        self._transport = None
        self._wake()
        self._on_lost(self)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A response begins, perhaps behind one of 1xx, which says nothing."""
        self.headers, self._num_head_bytes = [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._num_head_bytes += len(name) + len(value)
        if self._num_head_bytes > _MAX_HEAD_BYTES:
            raise ValueError(f"more than {_MAX_HEAD_BYTES} bytes of headers")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """All of them."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        self.status, self._has_head = status, True
        framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        bodyless = self._method == "HEAD" or status in (204, 304)
        self._ends_with_connection = not framed and not bodyless
        self._keeps_alive = self._parser.should_keep_alive() and not self._ends_with_connection
        if self._method == "HEAD":
            # The parser waits for the body that the headers tell of, and that does not come.
            self._is_complete = True
            self._keeps_alive = self._keeps_alive and not framed

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._chunks.append(body)
        self._num_waiting += len(body)
        if self._num_waiting > _MAX_WAITING_BYTES and not self._reading_paused:
            assert self._transport is not None
            self._reading_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The response is over; one of 1xx is followed by another."""
        if self._has_head:
            self._is_complete = True

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
