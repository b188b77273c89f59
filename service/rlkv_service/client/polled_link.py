"""The connections of an engine's client: one asks, one waits for answers, neither blocks.

What the server says of a request, that it is in the queue, comes before the answer and would wake
us for nothing: it is read now and then, at once only where something hangs on it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Any

from rlkv_service.client.client_state import ClientState
from rlkv_service.client.exchange import Exchange
from rlkv_service.client.line import Line
from rlkv_service.client.timeouts import ANSWERS_WAIT_S, CONNECT_TIMEOUT_S
from rlkv_service.columns import DecisionRows
from rlkv_service.redis_errors import RedisError
from rlkv_service.resp import RespConnection
from rlkv_service.server_clock import ServerClock

#: A server that leaves so much unread is stuck.
_MAX_UNSENT_BYTES = 8 * 2**20
#: Waits for answers that are begun together; the server goes from one to the next by itself.
_WAITS = 16
#: What the server says of requests is read so often, seconds, or after so many commands.
_READ_S, _MAX_UNREAD = 1.0, 256


class PolledLink:
    """Both connections, open. Of one thread.

    Args:
        state: of the client.

    Raises:
        RedisError: the server cannot be reached, or refuses who we are; from any method that the
            connection is lost.
    """

    def __init__(self, state: ClientState) -> None:
        clock, url = ServerClock(), state.address.url
        self._asking = RespConnection(url, CONNECT_TIMEOUT_S)
        try:
            clock.set(self._asking)
            self._answers = RespConnection(url, CONNECT_TIMEOUT_S)
        except RedisError:
            self._asking.close()
            raise
        self._asking_line, self._answers_line = Line(), Line()
        self._unsent = bytearray()
        self._read_at_s = time.monotonic() + _READ_S
        self._is_eager = False  # to hear what the server says of requests
        self.exchange = Exchange(state, clock, time.monotonic())
        self._poll, self._asking_events = select.poll(), 0
        self._poll.register(self._asking.fileno(), self._asking_events)
        self._poll.register(self._answers.fileno(), select.POLLIN)
        try:
            self._wait_for_answers()
        except RedisError:
            self.close()
            raise

    def ask(self, asks: Sequence[tuple[DecisionRows, Any, float]]) -> None:
        """Sends requests: rows, tag, monotonic deadline."""
        now_s = time.monotonic()
        if now_s >= self._read_at_s or len(self._asking_line) >= _MAX_UNREAD:
            self._read_at_s = now_s + _READ_S
            self._receive(self._asking, self._asking_line)
            self._is_eager = True
        self._send(self.exchange.ask(self._asking_line, asks))

    def probe(self, deadline_s: float) -> None:
        """Sends a question of which the breaker alone hears."""
        self._is_eager = True
        self._send(self.exchange.probe(self._asking_line, deadline_s))

    def record(self) -> None:
        """Sends the oldest outcomes, if it is time."""
        if raw := self.exchange.record(self._asking_line):
            self._is_eager = True
            self._send(raw)

    def wait(self, until_s: float) -> None:
        """Sends and receives what it can, once something can be, or the time has come."""
        self._poll_asking()
        ready = self._poll.poll(max(0.0, 1e3 * (until_s - time.monotonic())))
        self.exchange.at(time.monotonic())
        for fd, events in ready:
            if fd == self._asking.fileno():
                if events & select.POLLOUT:
                    self._send(b"")
                if events & ~select.POLLOUT:
                    self._receive(self._asking, self._asking_line)
            elif fd == self._answers.fileno():
                self._receive(self._answers, self._answers_line)
                if len(self._answers_line) <= 1:
                    self._wait_for_answers()
        if self.exchange.has_expired:  # the server may have said why
            self._receive(self._asking, self._asking_line)
        if self._asking_line.is_idle:
            self._is_eager = False

    @property
    def is_busy(self) -> bool:
        """Whether something is to come or to go."""
        return self.exchange.is_waiting or bool(self._unsent)

    @property
    def server_answers(self) -> bool:
        """Whether the server has replied to everything that it was sent."""
        return self._asking_line.is_idle and not self._unsent

    @property
    def is_closed(self) -> bool:
        """Whether it cannot be used any more."""
        return self._asking.is_closed or self._answers.is_closed

    def close(self) -> None:
        """Ends both connections."""
        self._asking.close()
        self._answers.close()

    def _wait_for_answers(self) -> None:
        line = self._answers_line
        waits = (self.exchange.wait_for_answers(line, ANSWERS_WAIT_S) for _ in range(_WAITS))
        self._answers.send(b"".join(waits))

    def _poll_asking(self) -> None:
        events = select.POLLIN if self._is_eager else 0
        if self._unsent:
            events |= select.POLLOUT
        if events != self._asking_events:
            self._asking_events = events
            self._poll.modify(self._asking.fileno(), events)

    def _send(self, raw: bytes) -> None:
        if not self._unsent:
            raw = raw[self._asking.send_some(raw) :]
            if not raw:
                return
        self._unsent += raw
        while self._unsent and (sent := self._asking.send_some(bytes(self._unsent))):
            del self._unsent[:sent]
        if len(self._unsent) > _MAX_UNSENT_BYTES:
            raise RedisError("the server does not take what is sent")

    def _receive(self, connection: RespConnection, line: Line) -> None:
        # Until nothing is left: with TLS the socket may be empty and the connection not.
        while replies := connection.wait(0.0):
            line.take(replies)
