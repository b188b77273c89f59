"""Connections to the backend, kept open and used again."""

from __future__ import annotations

import asyncio
import time

from rlkv_service.proxy.backend_url import BackendURL
from rlkv_service.proxy.headers import request_headers
from rlkv_service.proxy.upstream_connection import Headers, UpstreamConnection, UpstreamError

#: Idle connections; servers like vLLM's close theirs after 5 s, and who asks just then is lost.
_IDLE_S = 4.0
_MAX_IDLE = 1024
#: How often is looked for those of which nothing comes any more.
_SWEEP_S = 1.0


class Upstream:
    """A pool of connections to one backend.

    Args:
        url: of the backend.
        connect_timeout_s: to open a connection.
        silence_timeout_s: a backend that says nothing for so long has failed.
    """

    def __init__(
        self, url: BackendURL, connect_timeout_s: float = 5.0, silence_timeout_s: float = 3600.0
    ) -> None:
        self.url = url
        self._connect_timeout_s, self._silence_timeout_s = connect_timeout_s, silence_timeout_s
        self._tls = url.tls_context()
        self._idle: list[UpstreamConnection] = []  # the one used last at the end
        self._busy: set[UpstreamConnection] = set()
        self._sweeper: asyncio.Task[None] | None = None
        #: Connections opened, and requests sent again over a new one.
        self.num_connects = self.num_retries = 0
        #: Whether the last attempt to reach the backend did; None: there was none.
        self.is_reached: bool | None = None

    async def request(self, method: str, head: bytes, body: bytes) -> UpstreamConnection:
        """Sends a request and waits for the head of the response.

        A request over a connection that was kept is sent again, once and over a new one, if the
        backend closed that one before the first byte of an answer: it had gone while nobody asked.

        Args:
            method: of the request.
            head: request line and headers, as they go out.
            body: all of it.

        Returns:
            The connection, to be given back with ``give_back``.

        Raises:
            UpstreamError: there is no response.
        """
        connection = self._take_idle()
        if connection is not None:
            try:
                return await self._exchange(connection, method, head, body)
            except UpstreamError as error:
                if not error.untouched:
                    raise
                self.num_retries += 1
        return await self._exchange(await self._connect(), method, head, body)

    async def ask(
        self, method: str, path: str, headers: Headers, body: bytes = b""
    ) -> tuple[int, bytes]:
        """A request of the proxy's own; the status and the body of the answer.

        Args:
            method: of the request.
            path: behind that of the backend.
            headers: names in lower case.
            body: all of it.

        Raises:
            UpstreamError: there is no response.
        """
        sent = request_headers(headers, self.url.authority.encode(), len(body) or None)
        head = request_head(method, (self.url.path + path).encode(), sent)
        connection = await self.request(method, head, body)
        try:
            pieces = []
            while piece := await connection.read_body():
                pieces.append(piece)
            return connection.status, b"".join(pieces)
        finally:
            self.give_back(connection)

    def give_back(self, connection: UpstreamConnection) -> None:
        """The response has been read, or nobody reads it any more."""
        self._busy.discard(connection)
        connection.release()
        if connection.may_be_used_again and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()

    async def close(self) -> None:
        """Ends all connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        for connection in [*self._idle, *self._busy]:
            connection.close()

    @property
    def num_busy(self) -> int:
        """Requests under way."""
        return len(self._busy)

    async def _exchange(
        self, connection: UpstreamConnection, method: str, head: bytes, body: bytes
    ) -> UpstreamConnection:
        self._busy.add(connection)
        try:
            connection.send(method, head, body)
            await connection.read_head()
        except BaseException:
            self._busy.discard(connection)
            connection.close()
            raise
        return connection

    def _take_idle(self) -> UpstreamConnection | None:
        oldest_s = time.monotonic() - _IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.last_data_s > oldest_s:
                return connection
            connection.close()
        return None

    async def _connect(self) -> UpstreamConnection:
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())
        loop = asyncio.get_running_loop()
        self.num_connects += 1
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self._lost),
                    self.url.host,
                    self.url.port,
                    ssl=self._tls,
                )
        except TimeoutError as error:
            self.is_reached = False
            said = f"{self.url} does not answer within {self._connect_timeout_s:g} s"
            raise UpstreamError(said, "unreachable") from error
        except OSError as error:
            self.is_reached = False
            said = f"{self.url} cannot be reached: {error.strerror or error}"
            raise UpstreamError(said, "unreachable") from error
        self.is_reached = True
        return connection

    def _lost(self, connection: UpstreamConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now_s = time.monotonic()
            for connection in [c for c in self._idle if c.last_data_s < now_s - _IDLE_S]:
                connection.close()
            for connection in list(self._busy):
                if connection.last_data_s < now_s - self._silence_timeout_s:
                    said = f"the backend says nothing for {self._silence_timeout_s:g} s"
                    connection.fail(UpstreamError(said, "timeout"))


def request_head(method: str, target: bytes, headers: Headers) -> bytes:
    """Request line and headers as bytes."""
    lines = [b"%s %s HTTP/1.1\r\n" % (method.encode("latin-1"), target)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    lines.append(b"\r\n")
    return b"".join(lines)
