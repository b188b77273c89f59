"""The one background thread of an engine's client: everything that touches the network.

Whoever hands something over must not give up the interpreter's lock for it, or he waits until this
thread and others have done their work. To write to a socket gives it up, to put something into a
queue does not. So with nothing under way this thread sleeps on a queue, and with something under
way it polls its sockets, and looks every millisecond at what was handed over meanwhile.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from rlkv_service.client.client_state import ClientState
from rlkv_service.client.last_words import write_the_rest
from rlkv_service.client.polled_link import PolledLink
from rlkv_service.client.request_book import Settled
from rlkv_service.client.timeouts import CLOSE_TIMEOUT_S, PROBE_TIMEOUT_S
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.redis_errors import RedisError
from rlkv_service.schema import Reason

#: How long what is handed over may wait while something is under way, seconds.
_LOOK_S = 0.001
#: A connection that was closed while nothing is under way is noticed by then, seconds.
_IDLE_LOOK_S = 1.0


class Courier:
    """A daemon thread that takes rows to a sidecar and brings verdicts back."""

    def __init__(self, state: ClientState) -> None:
        self._state, self._breaker = state, state.breaker
        self._tally = state.tally
        self._link: PolledLink | None = None
        self._probe_was_out = False
        #: To ask: rows, tag, monotonic deadline.
        self._handed: deque[tuple[DecisionRows, Any, float]] = deque()
        #: Verdicts that nobody has collected yet.
        self.arrived: deque[tuple[Any, VerdictRows]] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._has_news, self._is_asleep = False, False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="rlkv-engine-client", daemon=True)
        self._thread.start()

    def hand(self, rows: DecisionRows, tag: Any, deadline_s: float) -> None:
        """Takes rows to be asked about."""
        self._handed.append((rows, tag, deadline_s))
        self.wake()

    def wake(self) -> None:
        """There is something to do."""
        self._has_news = True
        if self._is_asleep:
            self._is_asleep = False
            self._bell.put(None)

    @property
    def num_under_way(self) -> int:
        """Requests that have not ended."""
        link = self._link
        return len(self._handed) + (link.exchange.num_under_way if link is not None else 0)

    def close(self) -> None:
        """Ends the thread, after a last try to write outcomes that wait."""
        self._is_closing = True
        self.wake()
        self._thread.join(CLOSE_TIMEOUT_S)

    def abandon(self) -> None:
        """In a child of ``fork``: closes its copies of the sockets, and waits for nothing."""
        if self._link is not None:
            self._link.close()

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._step()
            write_the_rest(self._state)
        finally:
            self.abandon()

    def _step(self) -> None:
        """Sends what is there, waits for what comes, delivers it."""
        self._has_news = False
        now_s = time.monotonic()
        if self._link is None and (not self._breaker.is_open or now_s >= self._breaker.probe_at_s):
            self._connect()
        if (link := self._link) is None:
            while self._handed:
                rows, _, _ = self._handed.popleft()
                self._tally.add_local(Reason.DISCONNECTED, len(rows))
            self._sleep(self._breaker.probe_at_s)
            return
        try:
            self._send(link)
            until_s = link.exchange.next_s()
            if not link.is_busy:
                self._sleep(min(until_s, time.monotonic() + _IDLE_LOOK_S))
                if self._has_news:
                    return
                until_s = 0.0
            link.wait(min(until_s, time.monotonic() + _LOOK_S))
        except RedisError as error:
            link.exchange.at(time.monotonic())
            link.exchange.lost(error)
            link.close()
        self._deliver(link.exchange.take_settled())
        self._look_after(link)

    def _connect(self) -> None:
        try:
            self._link = PolledLink(self._state)
        except RedisError as error:
            self._tally.error(error)
            self._breaker.unreachable(time.monotonic())
        else:
            self._probe_was_out = False

    def _send(self, link: PolledLink) -> None:
        now_s = time.monotonic()
        link.exchange.at(now_s)
        asks = []
        while self._handed:
            rows, tag, deadline_s = self._handed.popleft()
            if self._breaker.is_open:
                self._tally.add_local(Reason.BREAKER_OPEN, len(rows))
            elif now_s >= deadline_s:
                self._tally.add_local(Reason.LATE, len(rows))
            else:
                asks.append((rows, tag, deadline_s))
        if asks:
            link.ask(asks)
        if link.exchange.wants_probe:
            link.probe(now_s + PROBE_TIMEOUT_S)
            self._probe_was_out = True
        link.record()

    def _look_after(self, link: PolledLink) -> None:
        """Drops a connection that is lost, or on which the server is silent."""
        probe_ended = self._probe_was_out and not link.exchange.probe_is_out
        if probe_ended:
            self._probe_was_out = False
        if link.is_closed or (probe_ended and self._breaker.is_open and not link.server_answers):
            link.close()
            self._link = None

    def _deliver(self, ended: Sequence[Settled]) -> None:
        for asked, verdicts, reason in ended:
            if verdicts is None:
                self._tally.add_local(reason, len(asked.rows))
            else:
                self.arrived.append((asked.tag, verdicts))
                self._tally.add(verdicts.reason)

    def _sleep(self, until_s: float) -> None:
        """Until somebody rings, or the time has come."""
        self._is_asleep = True
        # Whoever has news from here on rings.
        if not self._has_news:
            left_s = until_s - time.monotonic()
            with suppress(queue.Empty):
                self._bell.get(timeout=None if left_s == math.inf else max(0.0, left_s))
        self._is_asleep = False
