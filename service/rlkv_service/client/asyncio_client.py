"""The client for programs on asyncio: no thread, two connections and a task behind it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from typing import Self, TypeVar

from rlkv_service.client.address import Address, check_deadline_ms
from rlkv_service.client.async_link import AsyncLink
from rlkv_service.client.breaker import BreakerSettings
from rlkv_service.client.client import DEFAULT_DEADLINE_MS
from rlkv_service.client.client_state import DEFAULT_MAX_OUTCOMES_WAITING, ClientState
from rlkv_service.client.counts import Counts
from rlkv_service.client.engine_client import DEFAULT_MAX_UNDER_WAY
from rlkv_service.client.gathering import Gathering
from rlkv_service.client.outbox import Ticket
from rlkv_service.client.request_book import check_rows
from rlkv_service.client.timeouts import CLOSE_TIMEOUT_S, PROBE_TIMEOUT_S
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.local_rule import LocalRule
from rlkv_service.redis_errors import RedisError
from rlkv_service.redis_keys import DEFAULT_NAMESPACE
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import Outcome, Reason, SessionEnd

T = TypeVar("T")


class AsyncioClient:
    """As ``Client``, for tasks of one event loop: any number of them may ask at once.

    ``async with`` begins and ends it. The arguments are those of ``Client``, and
    ``max_under_way``: requests that have no answer yet; more are answered by the rule.

    Raises:
        InputError: the URL or a name cannot be used. Nothing is raised for a server that is not
            there.
    """

    def __init__(
        self,
        url: str | RedisURL,
        *,
        engine_id: str,
        namespace: str = DEFAULT_NAMESPACE,
        profile_id: str = "",
        rule: LocalRule | None = None,
        deadline_ms: float = DEFAULT_DEADLINE_MS,
        breaker: BreakerSettings | None = None,
        max_under_way: int = DEFAULT_MAX_UNDER_WAY,
        max_outcomes_waiting: int = DEFAULT_MAX_OUTCOMES_WAITING,
    ) -> None:
        address = Address.of(url, engine_id, namespace, profile_id)
        self._state = ClientState.begin(address, breaker, max_outcomes_waiting)
        self._breaker, self._outbox = self._state.breaker, self._state.outbox
        self._rule = rule or LocalRule()
        self._deadline_ms = check_deadline_ms(deadline_ms)
        self._max_under_way = max_under_way
        self._link: AsyncLink | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # the keeper has something to do
        self._connected = asyncio.Event()  # or it is known that there is no connection
        self._gatherings: dict[Gathering, asyncio.Future[None]] = {}
        self._reports: list[tuple[Ticket, asyncio.Future[bool]]] = []
        self._probe_was_out = False

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def decide(self, rows: DecisionRows, deadline_ms: float | None = None) -> VerdictRows:
        """A verdict for each row, by the deadline; see ``Client.decide``."""
        now_s = time.monotonic()
        check_rows(rows, max_rows=None)
        wait_ms = self._deadline_ms if deadline_ms is None else check_deadline_ms(deadline_ms)
        deadline_s = now_s + 1e-3 * wait_ms
        gathering = Gathering(rows, deadline_s)
        reason = await self._ask(gathering, deadline_s) if len(rows) else Reason.LATE
        verdicts = gathering.verdicts(self._rule, reason)
        self._state.tally.add(verdicts.reason)
        return verdicts

    async def report(self, outcomes: Sequence[Outcome], deadline_ms: float | None = None) -> bool:
        """Hands over what came of pauses; see ``Client.report``."""
        return await self._put(outcomes, deadline_ms)

    async def end(self, sessions: Sequence[SessionEnd], deadline_ms: float | None = None) -> bool:
        """Says that sessions are over, as ``report`` does for outcomes."""
        return await self._put(sessions, deadline_ms)

    @property
    def counts(self) -> Counts:
        """What the client has done, as of now."""
        return self._state.counts

    async def close(self) -> None:
        """Writes what it can of the outcomes that wait, within a few seconds, and ends."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        if len(self._outbox) and self._link is not None:
            end = self._outbox.put(())
            await self._wait_written(end, time.monotonic() + CLOSE_TIMEOUT_S)
        keeper.cancel()
        await asyncio.wait([keeper])
        if self._link is not None:
            self._link.exchange.lost(RedisError("the client is closed"))
            self._after_replies()
            self._drop_link()

    async def _ask(self, gathering: Gathering, deadline_s: float) -> Reason:
        """Puts answers into the gathering; why those are missing that were not asked for."""
        if self._keeper is None:
            return Reason.DISCONNECTED
        if self._breaker.is_open:
            return Reason.BREAKER_OPEN
        if (link := self._link) is None:
            await _by(self._connected.wait(), deadline_s)
            if (link := self._link) is None:
                self._breaker.failed(time.monotonic())
                return Reason.DISCONNECTED
        if link.exchange.num_under_way >= self._max_under_way:
            return Reason.NOT_ASKED
        now_s = time.monotonic()
        if now_s >= deadline_s:
            return Reason.LATE
        loop = asyncio.get_running_loop()
        self._gatherings[gathering] = ended = loop.create_future()
        link.exchange.at(now_s)
        link.write(link.exchange.ask(link.asking_line, gathering.asks()))
        self._after_replies()  # what cannot be sent has ended already
        timer = loop.call_later(deadline_s - now_s, self._expire)
        try:
            await ended
        finally:
            timer.cancel()
            self._gatherings.pop(gathering, None)
        return Reason.LATE

    async def _put(
        self, messages: Sequence[Outcome | SessionEnd], deadline_ms: float | None
    ) -> bool:
        wait_ms = self._deadline_ms if deadline_ms is None else check_deadline_ms(deadline_ms)
        ticket = self._outbox.put(messages)
        return await self._wait_written(ticket, time.monotonic() + 1e-3 * wait_ms)

    async def _wait_written(self, ticket: Ticket, deadline_s: float) -> bool:
        if self._outbox.was_written(ticket):
            return True
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._reports.append((ticket, written))
        self._changed.set()
        try:
            return await _by(written, deadline_s) or False
        finally:
            self._reports.remove((ticket, written))

    async def _keep(self) -> None:
        """Connects, probes and writes outcomes, whenever it is time for it."""
        while True:
            self._changed.clear()
            now_s, link = time.monotonic(), self._link
            if link is None:
                if self._breaker.is_open and now_s < self._breaker.probe_at_s:
                    next_s = self._breaker.probe_at_s
                else:
                    await self._connect()
                    continue
            else:
                exchange = link.exchange
                exchange.at(now_s)
                if exchange.wants_probe:
                    link.write(exchange.probe(link.asking_line, now_s + PROBE_TIMEOUT_S))
                    self._probe_was_out = True
                link.write(exchange.record(link.asking_line))
                next_s = exchange.next_s()
            await _by(self._changed.wait(), next_s)
            self._expire()

    async def _connect(self) -> None:
        try:
            link = await AsyncLink.open(self._state)
        except RedisError as error:
            self._state.tally.error(error)
            self._breaker.unreachable(time.monotonic())
            self._connected.set()
            return
        self._link, self._probe_was_out = link, False
        link.start(self._after_replies, self._lost)
        self._connected.set()

    def _expire(self) -> None:
        if self._link is not None:
            self._link.exchange.at(time.monotonic())
            self._after_replies()

    def _after_replies(self) -> None:
        """Tells those who wait for what has ended."""
        link = self._link
        if link is None:
            return
        for settled in link.exchange.take_settled():
            gathering = Gathering.put(settled)
            ended = self._gatherings.get(gathering)
            if ended is not None and gathering.is_complete and not ended.done():
                ended.set_result(None)
        for ticket, written in self._reports:
            if not written.done() and self._outbox.was_written(ticket):
                written.set_result(True)
        if len(self._outbox) or self._breaker.is_open:
            self._changed.set()
        if self._probe_was_out and not link.exchange.probe_is_out:
            self._probe_was_out = False
            if self._breaker.is_open and not link.asking_line.is_idle:
                self._drop_link()  # the server is silent

    def _lost(self, error: RedisError) -> None:
        if self._link is not None:
            self._link.exchange.lost(error)
            self._after_replies()
            self._drop_link()

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        self._connected.clear()
        self._changed.set()


async def _by(awaitable: Awaitable[T], deadline_s: float) -> T | None:
    """What an awaitable gives; None if that takes until a monotonic deadline."""
    left_s = deadline_s - time.monotonic()
    try:
        async with asyncio.timeout(None if left_s == math.inf else left_s):
            return await awaitable
    except TimeoutError:
        return None
