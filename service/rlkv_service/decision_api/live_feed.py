"""Tells everybody who watches the same, once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rlkv_service.decision_api.live_figures import LiveFigures
from rlkv_service.decision_api.problems import Problem

_PERIOD_S = 1.0
_log = logging.getLogger(__name__)


class LiveFeed:
    """Server-sent events. Lives in one event loop; figures are gathered beside it.

    Args:
        figures: what is told.
        max_listeners: one more is told to come again.
    """

    def __init__(self, figures: LiveFigures, max_listeners: int) -> None:
        self._figures, self._max_listeners = figures, max_listeners
        self._gathering = ThreadPoolExecutor(1, thread_name_prefix="rlkv-live")
        self._num_listeners = 0
        self._event = b""
        self._next: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Begins to gather."""
        self._next = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._gather())

    def close(self) -> None:
        """Lets every stream end."""
        self._closed = True
        self._wake()

    async def stop(self) -> None:
        """Ends gathering."""
        self.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._gathering.shutdown()
        self._figures.close()

    def response(self) -> StreamingResponse:
        """A stream for one more listener.

        Raises:
            Problem: there are too many.
        """
        if self._num_listeners >= self._max_listeners:
            reason = f"{self._num_listeners} listen already, that is all there may be"
            raise Problem("listeners", reason, retry_after_s=5.0)
        self._num_listeners += 1
        return _Stream(self)

    def leave(self) -> None:
        """A listener has gone."""
        self._num_listeners -= 1

    async def events(self) -> AsyncIterator[bytes]:
        """What is told: at once, then whenever it is new. Who is slow misses some."""
        event = b""
        while not self._closed:
            if event is self._event:
                assert self._next is not None
                await asyncio.shield(self._next)
                continue
            event = self._event
            yield event

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            try:
                snapshot = await loop.run_in_executor(self._gathering, self._figures.tick)
                self._event = b"data: " + msgspec.json.encode(snapshot) + b"\n\n"
                self._wake()
            except Exception:
                # The page is no reason to stop deciding.
                _log.exception("the live page has nothing to show")
            due_s = max(due_s + _PERIOD_S, loop.time())
            await asyncio.sleep(due_s - loop.time())

    def _wake(self) -> None:
        if self._next is not None and not self._next.done():
            self._next.set_result(None)
            if not self._closed:
                self._next = self._next.get_loop().create_future()


class _Stream(StreamingResponse):
    def __init__(self, feed: LiveFeed) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(feed.events(), headers=headers, media_type="text/event-stream")
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feed.leave()
