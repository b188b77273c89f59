"""A backend without a model: streams OpenAI chunks at a steady pace, and stamps each.

Nothing is computed: what it costs to stream is the sockets, so that what a proxy adds stands out.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import cast

import httptools
import uvloop

START_TIMEOUT_S = 120.0
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
#: As vLLM writes them; the time of sending stands in the id, in nanoseconds of CLOCK_MONOTONIC.
_CHUNK = (
    b'data: {"id":"chatcmpl-%d","object":"chat.completion.chunk","created":1764000000,'
    b'"model":"stub","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,'
    b'"finish_reason":%s}]}\n\n'
)
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
WHOLE_END = b'"total_tokens":10}}'
_WHOLE = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1764000000,"model":"stub",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":" word"},'
    b'"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":1,' + WHOLE_END
)


class _Stream(asyncio.Protocol):
    """One connection. ``/v1/chat/completions`` streams, anything else is answered whole."""

    def __init__(self, num_chunks: int, interval_s: float) -> None:
        self._num_chunks, self._interval_s = num_chunks, interval_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._streams = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """A piece of a request."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody reads on."""
        if self._timer is not None:
            self._timer.cancel()

    def on_url(self, url: bytes) -> None:
        """What is asked for."""
        self._streams = url == b"/v1/chat/completions"

    def on_message_complete(self) -> None:
        """A request is here."""
        if not self._streams:
            head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            )
            self._transport.write(head % len(_WHOLE) + _WHOLE)
            return
        self._transport.write(_HEAD)
        self._left, self._due_s = self._num_chunks, self._loop.time()
        self._tick()

    def _tick(self) -> None:
        self._left -= 1
        chunk = _CHUNK % (time.monotonic_ns(), b"null" if self._left else b'"stop"')
        framed = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        if self._left:
            self._transport.write(framed)
            self._due_s += self._interval_s
            self._timer = self._loop.call_at(self._due_s, self._tick)
        else:
            self._transport.write(framed + _DONE)


def _serve(ready: Connection, num_chunks: int, interval_s: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        make: Callable[[], _Stream] = lambda: _Stream(num_chunks, interval_s)  # noqa: E731
        server = await loop.create_server(make, "127.0.0.1", 0, backlog=2048)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


@contextmanager
def stream_stub(num_chunks: int, interval_s: float) -> Iterator[int]:
    """The stub in a process of its own; its port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, num_chunks, interval_s), daemon=True)
    process.start()
    try:
        if not ours.poll(START_TIMEOUT_S):
            raise TimeoutError(f"the stub does not start within {START_TIMEOUT_S:g} s")
        yield int(ours.recv())
    finally:
        process.terminate()
        process.join()
