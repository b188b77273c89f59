"""The client for an engine's loop: nothing in it waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rlkv_engine.errors import InputError
from rlkv_service.client.address import Address, check_deadline_ms
from rlkv_service.client.breaker import BreakerSettings
from rlkv_service.client.client_state import DEFAULT_MAX_OUTCOMES_WAITING, ClientState
from rlkv_service.client.courier import Courier
from rlkv_service.client.request_book import check_rows
from rlkv_service.client.threaded_client import ThreadedClient
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.redis_keys import DEFAULT_NAMESPACE
from rlkv_service.redis_url import RedisURL
from rlkv_service.schema import Outcome, Reason, SessionEnd

#: Longer than where somebody waits: who asks ahead has the time.
DEFAULT_ENGINE_DEADLINE_MS = 50.0
DEFAULT_MAX_UNDER_WAY = 64


class EngineClient(ThreadedClient[Courier]):
    """Hands rows over at one step of a loop, and collects their verdicts at a later one.

    Of one thread, apart from ``counts``. Who has no verdict when he needs it decides by his own
    rule; ``counts`` says why there was none.

    Args:
        url: of the Redis or Valkey server.
        engine_id: the name under which this engine is known.
        namespace: of the keys.
        profile_id: which machine and model this is, where a sidecar serves several.
        deadline_ms: an answer that comes later is dropped, milliseconds.
        breaker: when to stop asking.
        max_under_way: requests that have no answer yet; more are not asked.
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
        deadline_ms: float = DEFAULT_ENGINE_DEADLINE_MS,
        breaker: BreakerSettings | None = None,
        max_under_way: int = DEFAULT_MAX_UNDER_WAY,
        max_outcomes_waiting: int = DEFAULT_MAX_OUTCOMES_WAITING,
    ) -> None:
        self._deadline_s = 1e-3 * check_deadline_ms(deadline_ms)
        self._max_under_way = max_under_way
        address = Address.of(url, engine_id, namespace, profile_id)
        super().__init__(address, breaker, max_outcomes_waiting)

    def ask(self, rows: DecisionRows, tag: Any, deadline_ms: float | None = None) -> bool:
        """Hands rows over; they and their arrays must not change after that.

        Args:
            rows: 1 to ``MAX_ROWS`` decisions: all the candidates of an offer at once.
            tag: comes back with the verdicts.
            deadline_ms: instead of the client's own, milliseconds.

        Returns:
            Whether they are asked for. Not while the breaker is open, or with too many under way.

        Raises:
            InputError: the rows' arrays do not fit each other, or are empty or too long.
        """
        now_s = time.monotonic()
        check_rows(rows)
        num = len(rows)
        if not num:
            raise InputError("no rows to ask about")
        self._survive_fork()
        if self._is_closed:
            return self._refuse(Reason.DISCONNECTED, num)
        if self._breaker.is_open:
            return self._refuse(Reason.BREAKER_OPEN, num)
        if self._worker.num_under_way >= self._max_under_way:
            return self._refuse(Reason.NOT_ASKED, num)
        wait_s = self._deadline_s if deadline_ms is None else 1e-3 * check_deadline_ms(deadline_ms)
        self._worker.hand(rows, tag, now_s + wait_s)
        return True

    def collect(self) -> list[tuple[Any, VerdictRows]]:
        """What has arrived since the last call: tags, and verdicts for all of their rows."""
        arrived = self._worker.arrived
        # Of what comes meanwhile the next call hears.
        return [arrived.popleft() for _ in range(len(arrived))]

    def report(self, outcomes: Sequence[Outcome]) -> None:
        """Hands over what came of pauses; they are written once each, when a server is there.

        Raises:
            InputError: one of them is no outcome.
        """
        self._put(outcomes)

    def end(self, sessions: Sequence[SessionEnd]) -> None:
        """Says that sessions are over, as ``report`` does for outcomes."""
        self._put(sessions)

    def _new_worker(self, state: ClientState) -> Courier:
        return Courier(state)

    def _refuse(self, reason: Reason, num: int) -> bool:
        self._state.tally.add_local(reason, num)
        return False

    def _put(self, messages: Sequence[Outcome | SessionEnd]) -> None:
        self._survive_fork()
        self._state.outbox.put(messages)
        self._worker.wake()
