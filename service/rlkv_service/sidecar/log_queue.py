"""Decisions that wait to be logged, so that who asked over HTTP does not."""

from __future__ import annotations

import queue
import threading
import time

from rlkv_service.columns import DecisionRows, VerdictRows, request_of, verdicts_of
from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.schema import encode
from rlkv_service.sidecar.counters import Counters
from rlkv_service.sidecar.log_budget import LogBudget

#: Requests that wait at most; what comes then is counted as a failure of the log.
MAX_WAITING = 1024
_AT_A_TIME = 64
_BLOCK_S = 0.2

_Entry = tuple[float, str, DecisionRows, VerdictRows]


class LogQueue:
    """A bounded queue of decisions, and who writes them. For several threads."""

    def __init__(self, budget: LogBudget, counters: Counters) -> None:
        self._budget, self._counters = budget, counters
        self._waiting: queue.Queue[_Entry] = queue.Queue(MAX_WAITING)

    def put(self, engine_id: str, rows: DecisionRows, verdicts: VerdictRows) -> None:
        """Hands over decisions; returns at once."""
        if not self._budget.is_logging:
            return
        try:
            self._waiting.put_nowait((time.time(), engine_id, rows, verdicts))
        except queue.Full:
            self._counters.log_failed()

    def run(self, url: RedisURL, stop: threading.Event) -> None:
        """Writes what waits until told to stop, then the rest; for a thread of its own."""
        connection: RespConnection | None = None
        while True:
            entries = self._take()
            if not entries:
                if stop.is_set():
                    break
                continue
            try:
                if connection is None or connection.is_closed:
                    connection = RespConnection(url)
                self._write(connection, entries)
            except RedisError:
                self._counters.log_failed(len(entries))
        if connection is not None:
            connection.close()

    def _take(self) -> list[_Entry]:
        entries = []
        try:
            entries.append(self._waiting.get(timeout=_BLOCK_S))
            while len(entries) < _AT_A_TIME:
                entries.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return entries

    def _write(self, connection: RespConnection, entries: list[_Entry]) -> None:
        commands = [
            self._budget.command(
                encode(request_of(rows, engine_id, 0)), encode(verdicts_of(verdicts, 0)), at_s
            )
            for at_s, engine_id, rows, verdicts in entries
        ]
        for reply in connection.pipeline(commands):
            if isinstance(reply, RedisReplyError):
                self._counters.log_failed()
                self._budget.failed(str(reply))
