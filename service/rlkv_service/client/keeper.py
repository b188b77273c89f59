"""What the synchronous client does behind its caller: connecting, probing, writing outcomes."""

from __future__ import annotations

import threading
import time

from rlkv_service.client.client_state import ClientState
from rlkv_service.client.last_words import write_the_rest
from rlkv_service.client.link import Link
from rlkv_service.client.outbox import Ticket
from rlkv_service.client.timeouts import CLOSE_TIMEOUT_S, CONNECT_TIMEOUT_S, PROBE_TIMEOUT_S
from rlkv_service.outcome_log import record_outcomes
from rlkv_service.redis_errors import RedisError
from rlkv_service.resp import RespConnection


class Keeper:
    """A daemon thread that keeps a ``Link`` ready; it is his who has the lock ``asking``."""

    def __init__(self, state: ClientState) -> None:
        self._state, self._breaker = state, state.breaker
        self._tally, self._outbox = state.tally, state.outbox
        self.asking = threading.Lock()
        self._link: Link | None = None
        self._writing: RespConnection | None = None
        self._write_at_s = 0.0  # not before, monotonic
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="rlkv-client", daemon=True)
        self._thread.start()

    def link(self, deadline_s: float) -> Link | None:
        """The connection; None if there is none by then."""
        if self._link is None:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._link is not None or self._breaker.is_open or self._is_closing,
                    max(0.0, deadline_s - time.monotonic()),
                )
        return self._link

    def drop_link(self) -> None:
        """The caller has done with it; there will be another one."""
        with self._changed:
            link, self._link = self._link, None
            if link is not None:
                link.close()
            self._changed.notify_all()

    def wait_written(self, ticket: Ticket, deadline_s: float) -> bool:
        """Whether the server has these outcomes by then."""
        with self._changed:
            self._changed.notify_all()
            return self._changed.wait_for(
                lambda: self._outbox.was_written(ticket), max(0.0, deadline_s - time.monotonic())
            )

    def close(self) -> None:
        """Ends the thread, after a last try to write what waits."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_TIMEOUT_S)

    def abandon(self) -> None:
        """In a child of ``fork``: closes its copies of the sockets, and waits for nothing."""
        for connection in (self._link, self._writing):
            if connection is not None:
                connection.close()

    def _run(self) -> None:
        try:
            while not self._is_closing:
                with self._changed:
                    if not self._has_work():
                        # Once, not until there is work: what happens may change how long to wait.
                        self._changed.wait(self._wait_s(time.monotonic()))
                if self._wants_link():
                    self._connect()
                if self._wants_to_write():
                    self._write()
            write_the_rest(self._state)
        finally:
            self.drop_link()
            if self._writing is not None:
                self._writing.close()

    def _has_work(self) -> bool:
        return self._is_closing or self._wants_link() or self._wants_to_write()

    def _wants_link(self) -> bool:
        if self._link is not None:
            return False
        return not self._breaker.is_open or time.monotonic() >= self._breaker.probe_at_s

    def _wants_to_write(self) -> bool:
        return len(self._outbox) > 0 and time.monotonic() >= self._write_at_s

    def _wait_s(self, now_s: float) -> float | None:
        times = []
        if self._link is None and self._breaker.is_open:
            times.append(self._breaker.probe_at_s)
        if len(self._outbox):
            times.append(self._write_at_s)
        return max(0.0, min(times) - now_s) if times else None

    def _connect(self) -> None:
        breaker = self._breaker
        try:
            link = Link(self._state)
        except RedisError as error:
            self._tally.error(error)
            with self._changed:
                breaker.unreachable(time.monotonic())
                self._changed.notify_all()
            return
        if breaker.is_open:
            link.probe(time.monotonic() + PROBE_TIMEOUT_S)
        with self._changed:
            if link.is_closed or breaker.is_open or self._is_closing:
                link.close()
            else:
                self._link = link
            self._changed.notify_all()

    def _write(self) -> None:
        address, backoff = self._state.address, self._state.backoff
        try:
            if self._writing is None or self._writing.is_closed:
                self._writing = RespConnection(address.url, CONNECT_TIMEOUT_S)
            while messages := self._outbox.begin():
                record_outcomes(self._writing, address.keys, messages)
                self._outbox.written()
                with self._changed:
                    self._changed.notify_all()
        except RedisError as error:
            self._tally.error(error)
            self._write_at_s = time.monotonic() + backoff.next_s()
        else:
            backoff.reset()
