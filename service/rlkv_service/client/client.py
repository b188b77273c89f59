"""The synchronous client: it asks from the caller's thread, and everything else is behind it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rlkv_service.client.address import Address, check_deadline_ms
from rlkv_service.client.breaker import BreakerSettings
from rlkv_service.client.client_state import DEFAULT_MAX_OUTCOMES_WAITING, ClientState
from rlkv_service.client.gathering import Gathering
from rlkv_service.client.keeper import Keeper
from rlkv_service.client.request_book import check_rows
from rlkv_service.client.threaded_client import ThreadedClient
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.local_rule import LocalRule
from rlkv_service.redis_keys import DEFAULT_NAMESPACE
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import Outcome, Reason, SessionEnd

DEFAULT_DEADLINE_MS = 5.0


class Client(ThreadedClient[Keeper]):
    """Asks a sidecar, and answers by a rule where it does not.

    Any thread may call it; only one asks at a time, and who waits for another beyond the deadline
    is answered by the rule. A daemon thread connects, probes and writes outcomes.

    Args:
        url: of the Redis or Valkey server.
        engine_id: the name under which this engine is known.
        namespace: of the keys.
        profile_id: which machine and model this is, where a sidecar serves several.
        rule: answers where nobody else does.
        deadline_ms: for ``decide`` and ``report``, milliseconds.
        breaker: when to stop asking.
        max_outcomes_waiting: the oldest are dropped where more would wait.

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
        max_outcomes_waiting: int = DEFAULT_MAX_OUTCOMES_WAITING,
    ) -> None:
        self._rule = rule or LocalRule()
        self._deadline_ms = check_deadline_ms(deadline_ms)
        address = Address.of(url, engine_id, namespace, profile_id)
        super().__init__(address, breaker, max_outcomes_waiting)

    def decide(self, rows: DecisionRows, deadline_ms: float | None = None) -> VerdictRows:
        """A verdict for each row, by the deadline.

        Args:
            rows: any number of decisions; more than ``MAX_ROWS`` travel in several requests.
            deadline_ms: instead of the client's own, milliseconds.

        Raises:
            InputError: the rows' arrays do not fit each other. Nothing else: what is not answered
                is decided by the local rule, and the verdict's ``reason`` says why.
        """
        now_s = time.monotonic()
        check_rows(rows, max_rows=None)
        self._survive_fork()
        wait_ms = self._deadline_ms if deadline_ms is None else check_deadline_ms(deadline_ms)
        deadline_s = now_s + 1e-3 * wait_ms
        gathering = Gathering(rows, deadline_s)
        reason = self._ask(gathering, deadline_s) if len(rows) else Reason.LATE
        verdicts = gathering.verdicts(self._rule, reason)
        self._state.tally.add(verdicts.reason)
        return verdicts

    def report(self, outcomes: Sequence[Outcome], deadline_ms: float | None = None) -> bool:
        """Hands over what came of pauses; they are written once each, however often that is tried.

        Args:
            outcomes: for each pause one.
            deadline_ms: for how long to wait for the server, milliseconds; 0 does not wait.

        Returns:
            Whether the server has them by the deadline. What it has not is kept, and written when
            it can be.

        Raises:
            InputError: one of them is no outcome.
        """
        return self._put(outcomes, deadline_ms)

    def end(self, sessions: Sequence[SessionEnd], deadline_ms: float | None = None) -> bool:
        """Says that sessions are over, as ``report`` does for outcomes."""
        return self._put(sessions, deadline_ms)

    def _new_worker(self, state: ClientState) -> Keeper:
        return Keeper(state)

    def _ask(self, gathering: Gathering, deadline_s: float) -> Reason:
        """Puts answers into the gathering; why those are missing that were not asked for."""
        if self._is_closed:
            return Reason.DISCONNECTED
        if self._breaker.is_open:
            return Reason.BREAKER_OPEN
        if not self._worker.asking.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            return Reason.NOT_ASKED
        try:
            link = self._worker.link(deadline_s)
            if link is None:
                self._breaker.failed(time.monotonic())
                return Reason.DISCONNECTED
            link.ask(gathering, deadline_s)
            if link.is_closed or self._breaker.is_open:
                self._worker.drop_link()
            return Reason.LATE
        finally:
            self._worker.asking.release()

    def _put(self, messages: Sequence[Outcome | SessionEnd], deadline_ms: float | None) -> bool:
        wait_ms = self._deadline_ms if deadline_ms is None else check_deadline_ms(deadline_ms)
        deadline_s = time.monotonic() + 1e-3 * wait_ms
        self._survive_fork()
        ticket = self._state.outbox.put(messages)
        return self._worker.wait_written(ticket, deadline_s)
