"""Streams that are read side by side, and how late each of their chunks is."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import cast

import uvloop

_STAMP = re.compile(rb'"id":"chatcmpl-(\d+)"')
_END = b"0\r\n\r\n"


@dataclass(slots=True)
class StreamTimes:
    """What was seen, seconds."""

    #: From the stub's writing of a chunk to its arrival.
    chunk_s: list[float] = field(default_factory=list)
    #: From the request to the first chunk.
    first_s: list[float] = field(default_factory=list)
    failed: int = 0


class _Reader(asyncio.Protocol):
    def __init__(self, times: StreamTimes) -> None:
        self._times = times
        self._tail = b""
        self.done: asyncio.Future[None] | None = None
        self._asked_ns = 0
        self._has_first = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[None]:
        self.done = asyncio.get_running_loop().create_future()
        self._has_first, self._tail = False, b""
        self._asked_ns = time.monotonic_ns()
        self._transport.write(request)
        return self.done

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        times = self._times
        for sent in _STAMP.findall(data):
            if self._has_first:
                times.chunk_s.append(1e-9 * (now_ns - int(sent)))
            else:
                self._has_first = True
                times.first_s.append(1e-9 * (now_ns - self._asked_ns))
        # The end may come in two pieces.
        self._tail = (self._tail + data)[-len(_END) :]
        if self._tail == _END and self.done is not None and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self._times.failed += 1
            self.done.set_result(None)


def read_streams(
    port: int, request: bytes, num_streams: int, rounds: int, spread_s: float
) -> StreamTimes:
    """Reads ``num_streams`` streams at a time, each so often, begun within ``spread_s``."""
    times = StreamTimes()

    async def one(index: int) -> None:
        loop = asyncio.get_running_loop()
        transport, reader = await loop.create_connection(lambda: _Reader(times), "127.0.0.1", port)
        await asyncio.sleep(spread_s * index / num_streams)
        for _ in range(rounds):
            await reader.ask(request)
        transport.close()

    async def main() -> None:
        await asyncio.gather(*(one(index) for index in range(num_streams)))

    uvloop.run(main())
    return times
