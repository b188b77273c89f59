"""What the queue and the decision API share: deciding, the log, outcomes, and what was counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.deciding.active_bundle import PolicyInfo
from rlkv_service.deciding.decider import Asked, Decider
from rlkv_service.outcome_log import record_outcomes
from rlkv_service.pause_estimates import PauseEstimates
from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.schema import Outcome, SessionEnd
from rlkv_service.sidecar.counters import Counters
from rlkv_service.sidecar.log_budget import DEFAULT_LOG_BYTES, LogBudget
from rlkv_service.sidecar.log_queue import LogQueue
from rlkv_service.sidecar.recent import Recent


class DecisionService:
    """Everything that a way to ask needs. For several threads.

    Args:
        decider: with a bundle.
        url: the Redis or Valkey server.
        keys: of the deployment.
        estimates: of pauses, the ones that the decider asks, if there are any.
        log_bytes: that the log of decisions may take; 0: there is none.
    """

    def __init__(
        self,
        decider: Decider,
        url: RedisURL,
        keys: RedisKeys,
        estimates: PauseEstimates | None = None,
        *,
        log_bytes: int = DEFAULT_LOG_BYTES,
    ) -> None:
        self.counters = Counters()
        self.recent = Recent()
        self.keys = keys
        self.estimates = estimates
        self.budget = LogBudget(keys.decisions, log_bytes)
        #: Decisions that are logged behind the back of whoever asked.
        self.unlogged = LogQueue(self.budget, self.counters)
        self._decider, self._url = decider, url
        self._lock = threading.Lock()
        self._connection: RespConnection | None = None

    def decide(self, engine_id: str, rows: DecisionRows) -> VerdictRows:
        """Verdicts for rows: counted, shown and logged. Never waits for Redis.

        The log is written behind its back; what cannot be logged is counted.
        """
        begin_s = time.perf_counter()
        (verdicts,) = self.answer([Asked(engine_id, rows)])
        self.counters.answered(time.perf_counter() - begin_s)
        self.unlogged.put(engine_id, rows, verdicts)
        return verdicts

    def answer(self, asked: Sequence[Asked]) -> list[VerdictRows]:
        """Verdicts for several requests: counted and shown, and not logged."""
        decided = self._decider.decide_many(asked)
        self.counters.decided(decided)
        now_s = time.time()
        for each, verdicts in zip(asked, decided, strict=True):
            self.recent.add(now_s, each.engine_id, each.rows, verdicts)
        return decided

    def record(self, messages: Sequence[Outcome | SessionEnd]) -> list[bool]:
        """Writes outcomes and ends of sessions; when it returns the server has them.

        Blocks for as long as the server takes.

        Returns:
            For each message whether it was new; what was recorded before is not again.

        Raises:
            RedisError: the server does not answer or has no room. Repeating is safe.
        """
        with self._lock:
            return self._record(messages)

    @property
    def url(self) -> RedisURL:
        """Of the server."""
        return self._url

    @property
    def policy(self) -> PolicyInfo:
        """The bundle that decides now."""
        return self._decider.info

    @property
    def not_ready(self) -> str:
        """Why it should not be asked, in words; empty when it is ready."""
        try:
            with RespConnection(self._url, timeout_s=1.0) as connection:
                connection.execute("PING")
        except RedisError as error:
            return str(error)
        return ""

    def close(self) -> None:
        """Closes its connection; what is recorded later opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _record(self, messages: Sequence[Outcome | SessionEnd]) -> list[bool]:
        fresh = self._connection is None or self._connection.is_closed
        try:
            return record_outcomes(self._connected(), self.keys, messages)
        except RedisReplyError:
            raise
        except RedisError:
            if fresh:
                raise
        # The server may have closed a connection that was silent for long; repeating is safe.
        return record_outcomes(self._connected(), self.keys, messages)

    def _connected(self) -> RespConnection:
        if self._connection is None or self._connection.is_closed:
            self._connection = RespConnection(self._url)
        return self._connection
