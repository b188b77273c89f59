"""Clients that read from a stub, side by side, and how late what they read is."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

from rlkv.bench.stream_stub import WHOLE_END
from rlkv_engine.errors import RlkvError

_STAMP = re.compile(rb'"id":"chatcmpl-(\d+)"')
_STREAM_END = b"0\r\n\r\n"


@dataclass(slots=True)
class StreamTimes:
    """What was seen, seconds."""

    #: From the stub's writing of a chunk to its arrival; of a stream's first one there is none.
    chunk_s: list[float] = field(default_factory=list)
    #: From the request to the first chunk.
    first_s: list[float] = field(default_factory=list)


class _Client(asyncio.Protocol):
    """One connection; a response is over at an ending that nothing else has."""

    def __init__(self, times: StreamTimes, ending: bytes) -> None:
        self._times, self._ending = times, ending
        self._tail = b""
        self._done: asyncio.Future[None] | None = None
        self._asked_ns = 0
        self._has_first = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[None]:
        """Sends a request; done when its response is here."""
        self._done = asyncio.get_running_loop().create_future()
        self._has_first, self._tail = False, b""
        self._asked_ns = time.monotonic_ns()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        """A piece of a response."""
        now_ns = time.monotonic_ns()
        for sent in _STAMP.findall(data):
            if self._has_first:
                self._times.chunk_s.append(1e-9 * (now_ns - int(sent)))
            else:
                self._has_first = True
                self._times.first_s.append(1e-9 * (now_ns - self._asked_ns))
        # The ending may come in two pieces.
        self._tail = (self._tail + data)[-len(self._ending) :]
        if self._tail == self._ending and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """What is still asked will not be answered."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(RlkvError("a connection was lost in the middle of a stream"))


def read_streams(
    port: int, request: Callable[[int], bytes], num_streams: int, rounds: int, spread_s: float
) -> StreamTimes:
    """Reads ``num_streams`` streams at a time, each so often, begun within ``spread_s``.

    Args:
        port: of who streams, on this machine.
        request: what a stream asks, by its number.
        num_streams: at a time.
        rounds: streams one after the other on each connection.
        spread_s: within which they begin, seconds.
    """
    times = StreamTimes()

    async def one(index: int) -> None:
        transport, client = await _connect(port, times, _STREAM_END)
        await asyncio.sleep(spread_s * index / num_streams)
        for _ in range(rounds):
            await client.ask(request(index))
        transport.close()

    async def main() -> None:
        await asyncio.gather(*(one(index) for index in range(num_streams)))

    uvloop.run(main())
    return times


def whole_answers_per_s(port: int, request: bytes, num_clients: int, num_requests: int) -> float:
    """Requests answered whole, one after the other on each of so many connections."""
    times = StreamTimes()

    async def one() -> None:
        transport, client = await _connect(port, times, WHOLE_END)
        for _ in range(num_requests // num_clients):
            await client.ask(request)
        transport.close()

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(num_clients)))

    begin_s = time.perf_counter()
    uvloop.run(main())
    return num_requests // num_clients * num_clients / (time.perf_counter() - begin_s)


async def _connect(
    port: int, times: StreamTimes, ending: bytes
) -> tuple[asyncio.Transport, _Client]:
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(
        lambda: _Client(times, ending), "127.0.0.1", port
    )
    return transport, client
