"""What is said to a sidecar and asked of it, beside the requests and never in their way."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable

from rlkv_engine.errors import RlkvError
from rlkv_service.adapters.hints import Verdict, verdict_at
from rlkv_service.client import AsyncioClient, DecisionRows, Outcome, Reason, SessionEnd

_log = logging.getLogger(__name__)

#: Nobody waits for a verdict: it is of use as long as the pause lasts.
_DEADLINE_MS = 250.0
#: Verdicts that are awaited at a time.
_MAX_ASKING = 256


class SidecarLink:
    """A client of a sidecar; ``async with`` begins and ends it.

    Args:
        client: not begun yet.
    """

    def __init__(self, client: AsyncioClient) -> None:
        self._client = client
        self._messages: deque[Outcome | SessionEnd] = deque()
        self._wake = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()
        #: Pauses nobody was asked about, and messages that nobody could read.
        self.counts: Counter[str] = Counter()

    @property
    def client(self) -> AsyncioClient:
        """Its counts are the link's."""
        return self._client

    async def __aenter__(self) -> SidecarLink:
        await self._client.__aenter__()
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._asking, *([self._sending] if self._sending else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._hand_over()
        await self._client.close()

    def report(self, message: Outcome | SessionEnd) -> None:
        """Hands over what came of a pause, or that a session is over."""
        self._messages.append(message)
        self._wake.set()

    def ask(self, rows: DecisionRows, on_verdict: Callable[[Verdict, str], None]) -> None:
        """Asks about one row; what a sidecar answers, and its policy's version, is handed on.

        What a local rule says in its place is not: without a sidecar engines do as they always do.
        """
        if len(self._asking) >= _MAX_ASKING:
            self.counts["not_asked"] += 1
            return
        task = asyncio.create_task(self._ask(rows, on_verdict))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, rows: DecisionRows, on_verdict: Callable[[Verdict, str], None]) -> None:
        try:
            verdicts = await self._client.decide(rows, _DEADLINE_MS)
            if verdicts.reason[0] < Reason.LATE:
                on_verdict(verdict_at(verdicts, 0), verdicts.policy_version)
        except Exception:
            self.counts["failed"] += 1
            _log.exception("a verdict of %s cannot be used", rows.sessions[0])

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._hand_over()

    async def _hand_over(self) -> None:
        while self._messages:
            message = self._messages.popleft()
            try:
                # The client keeps it, and writes it when a server is there.
                if isinstance(message, Outcome):
                    await self._client.report([message], deadline_ms=0.0)
                else:
                    await self._client.end([message], deadline_ms=0.0)
            except RlkvError as error:
                self.counts["unreportable"] += 1
                _log.warning("not reported: %s", error)
