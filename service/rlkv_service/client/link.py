"""The connections of the synchronous client: one asks, on the other answers are waited for.

On one connection the server's word that a request is in the queue would come first, and wake a
caller who waits for something else. So that word is read later, from a connection of its own; and
waits for answers are begun several at a time, ahead of the questions.
"""

from __future__ import annotations

import time

from rlkv_service.client.client_state import ClientState
from rlkv_service.client.exchange import Exchange
from rlkv_service.client.gathering import Gathering
from rlkv_service.client.line import Line
from rlkv_service.client.timeouts import ANSWERS_WAIT_S, CONNECT_TIMEOUT_S
from rlkv_service.redis_errors import RedisError
from rlkv_service.resp import RespConnection
from rlkv_service.server_clock import ServerClock

#: Waits for answers that are begun together; the server goes from one to the next by itself.
_WAITS = 16
#: What the server says of requests is read so often, seconds, or after so many commands.
_READ_S, _MAX_UNREAD = 1.0, 256


class Link:
    """Both connections, open. Not for several threads at once.

    Raises:
        RedisError: the server cannot be reached, or refuses who we are.
    """

    def __init__(self, state: ClientState) -> None:
        url = state.address.url
        self._asking = RespConnection(url, CONNECT_TIMEOUT_S)
        try:
            clock = ServerClock()
            clock.set(self._asking)
            self._answers = RespConnection(url, CONNECT_TIMEOUT_S)
        except RedisError:
            self._asking.close()
            raise
        self._asking_line, self._answers_line = Line(), Line()
        now_s = time.monotonic()
        self._exchange = Exchange(state, clock, now_s)
        self._read_at_s = now_s + _READ_S
        self._waiting_until_s = now_s  # the server waits for answers at least until then

    def ask(self, gathering: Gathering, deadline_s: float) -> None:
        """Asks, and puts what comes of it into the gathering; all of it has ended by the deadline.

        A lost connection is closed, and the breaker knows of it.
        """
        now_s = time.monotonic()
        if now_s >= deadline_s:
            return
        self._exchange.at(now_s)
        try:
            reads = self._read_if_due(now_s)
            self._wait_for_answers(now_s, deadline_s)
            raw = self._exchange.ask(self._asking_line, gathering.asks())
            self._run(raw, deadline_s, reads)
        except RedisError as error:
            self._lost(error)
        for settled in self._exchange.take_settled():
            Gathering.put(settled)

    def probe(self, deadline_s: float) -> None:
        """Asks whether a sidecar is there; the breaker has the answer."""
        now_s = time.monotonic()
        self._exchange.at(now_s)
        try:
            self._wait_for_answers(now_s, deadline_s)
            self._run(self._exchange.probe(self._asking_line, deadline_s), deadline_s, True)
        except RedisError as error:
            self._lost(error)
        self._exchange.take_settled()

    def close(self) -> None:
        """Ends both connections."""
        self._asking.close()
        self._answers.close()

    @property
    def is_closed(self) -> bool:
        """Whether it was lost."""
        return self._asking.is_closed or self._answers.is_closed

    def _run(self, raw: bytes, deadline_s: float, reads: bool) -> None:
        """Sends, and takes answers until all are there or the deadline is.

        Args:
            raw: what asks.
            deadline_s: monotonic.
            reads: what the server says of it is read at once.
        """
        exchange, line = self._exchange, self._answers_line
        self._asking.send(raw, deadline_s)
        while exchange.num_under_way:
            replies = self._answers.wait(deadline_s)
            exchange.at(now_s := time.monotonic())
            line.take(replies)
            self._waiting_until_s = now_s + ANSWERS_WAIT_S * len(line)
            if now_s >= deadline_s:
                reads = True  # it may say why there is no answer
                break
            self._wait_for_answers(now_s, deadline_s)
        if reads:
            self._read(time.monotonic())

    def _wait_for_answers(self, now_s: float, deadline_s: float) -> None:
        """Sees to it that the server waits for answers, this time and after the next one."""
        if now_s + ANSWERS_WAIT_S > self._waiting_until_s:
            line = self._answers_line
            waits = (self._exchange.wait_for_answers(line, ANSWERS_WAIT_S) for _ in range(_WAITS))
            self._answers.send(b"".join(waits), deadline_s)
            self._waiting_until_s = now_s + ANSWERS_WAIT_S * _WAITS

    def _read_if_due(self, now_s: float) -> bool:
        if now_s < self._read_at_s and len(self._asking_line) < _MAX_UNREAD:
            return False
        self._read(now_s)
        return True

    def _read(self, now_s: float) -> None:
        """Takes what the server said of requests."""
        self._read_at_s = now_s + _READ_S
        if not self._asking_line.is_idle:
            self._exchange.at(now_s)
            self._asking_line.take(self._asking.wait(0.0))

    def _lost(self, error: RedisError) -> None:
        self.close()
        self._exchange.at(time.monotonic())
        self._exchange.lost(error)
