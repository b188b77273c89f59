"""A connection of the synchronous client: commands and replies on one socket."""

from __future__ import annotations

import secrets
import time

from rlkv_service.client.address import Address
from rlkv_service.client.backoff import Backoff
from rlkv_service.client.breaker import Breaker
from rlkv_service.client.counts import Tally
from rlkv_service.client.exchange import Exchange
from rlkv_service.client.gathering import Gathering
from rlkv_service.client.line import Line
from rlkv_service.client.request_book import RequestBook
from rlkv_service.client.timeouts import CONNECT_TIMEOUT_S
from rlkv_service.redis_errors import RedisError
from rlkv_service.resp import RespConnection
from rlkv_service.server_clock import ServerClock


class Link:
    """An open connection. Not for several threads at once.

    Raises:
        RedisError: the server cannot be reached, or refuses who we are.
    """

    def __init__(self, address: Address, breaker: Breaker, tally: Tally, backoff: Backoff) -> None:
        self._connection = RespConnection(address.url, CONNECT_TIMEOUT_S)
        try:
            clock = ServerClock()
            clock.set(self._connection)
        except RedisError:
            self._connection.close()
            raise
        book = RequestBook(address.engine_id, address.profile_id)
        self._line = Line()
        self._exchange = Exchange(
            address.keys, secrets.token_hex(8), book, breaker, tally, clock, backoff,
            time.monotonic(),
        )  # fmt: skip

    def ask(self, gathering: Gathering, deadline_s: float) -> None:
        """Asks, and puts what comes of it into the gathering; all of it has ended by the deadline.

        A lost connection is closed, and the breaker knows of it.
        """
        now_s = time.monotonic()
        if now_s >= deadline_s:
            return
        self._exchange.at(now_s)
        self._run(self._exchange.ask(self._line, gathering.asks()), deadline_s)
        for settled in self._exchange.take_settled():
            Gathering.put(settled)

    def probe(self, deadline_s: float) -> None:
        """Asks whether a sidecar is there; the breaker has the answer."""
        self._exchange.at(time.monotonic())
        self._run(self._exchange.probe(self._line, deadline_s), deadline_s)
        self._exchange.take_settled()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    @property
    def is_closed(self) -> bool:
        """Whether it was lost."""
        return self._connection.is_closed

    def _run(self, raw: bytes, deadline_s: float) -> None:
        exchange, line, connection = self._exchange, self._line, self._connection
        now_s = time.monotonic()
        try:
            if not exchange.num_under_way:
                connection.send(raw, deadline_s)
                return
            connection.send(raw + exchange.wait_for_answers(line, deadline_s - now_s), deadline_s)
            while True:
                replies = connection.wait(deadline_s)
                exchange.at(now_s := time.monotonic())
                line.take(replies)
                if not exchange.num_under_way or now_s >= deadline_s:
                    return
                if line.is_idle:
                    # What came was for an older request.
                    connection.send(exchange.wait_for_answers(line, deadline_s - now_s), deadline_s)
        except RedisError as error:
            connection.close()
            exchange.at(time.monotonic())
            exchange.lost(error)
