"""The two streams as decisions and outcomes: in order, in pages, what cannot be read counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rlkv_service.columns import DecisionRows, VerdictRows, rows_of, verdict_rows_of
from rlkv_service.decision_log.entries import StreamEntry, decode_outcome, id_parts, read_stream
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.resp import RespConnection
from rlkv_service.schema import (
    DecisionRequest,
    Outcome,
    SchemaError,
    SessionEnd,
    Verdicts,
    decode,
)


class DecisionEntry(NamedTuple):
    """A request that was answered."""

    entry_id: str
    at_s: float  #: when, seconds since the epoch
    request: DecisionRequest
    rows: DecisionRows
    verdicts: VerdictRows


class OutcomeEntry(NamedTuple):
    """An outcome or the end of a session."""

    entry_id: str
    at_s: float  #: when the server got it, seconds since the epoch
    message: Outcome | SessionEnd


@dataclass(frozen=True, slots=True)
class LogWindow:
    """Which part of the log; None: no limit.

    Args:
        since_s: the earliest, seconds since the epoch.
        until_s: the first that is not in it any more.
        engine_id: of one engine alone.
    """

    since_s: float | None = None
    until_s: float | None = None
    engine_id: str | None = None


class LogReader:
    """Reads the log of a deployment.

    Args:
        connection: to its server.
        keys: of the deployment.
        window: what to read.
        on_entries: is told of the entries read: ``(stream, entries so far, whether that is all)``.
    """

    def __init__(
        self,
        connection: RespConnection,
        keys: RedisKeys,
        window: LogWindow | None = None,
        on_entries: Callable[[str, int, bool], None] | None = None,
    ) -> None:
        self._connection, self._keys = connection, keys
        self._window = window or LogWindow()
        self._on_entries = on_entries
        self.num_unreadable = 0

    def num_entries(self) -> tuple[int, int]:
        """Entries of the two streams, whatever the window: decisions and outcomes.

        Raises:
            RedisError: the server is gone, or refuses.
        """
        return (
            self._connection.execute("XLEN", self._keys.decisions),
            self._connection.execute("XLEN", self._keys.outcomes),
        )

    def decisions(self) -> Iterator[DecisionEntry]:
        """Decisions, the oldest first.

        Raises:
            RedisError: the server is gone, or refuses.
        """
        for entry in self._entries("decisions", self._keys.decisions):
            try:
                request = decode(entry.fields.get(b"q", b""), DecisionRequest)
                if self._window.engine_id not in (None, request.engine_id):
                    continue
                rows = rows_of(request)
                answer = decode(entry.fields.get(b"a", b""), Verdicts)
                verdicts = verdict_rows_of(answer, len(rows))
                at_s = float(entry.fields.get(b"at") or id_parts(entry.entry_id)[0] / 1000)
            except (SchemaError, ValueError):
                self.num_unreadable += 1
                continue
            yield DecisionEntry(entry.entry_id, at_s, request, rows, verdicts)

    def outcomes(self) -> Iterator[OutcomeEntry]:
        """Outcomes and ends, in the order in which the server got them.

        Raises:
            RedisError: the server is gone, or refuses.
        """
        for entry in self._entries("outcomes", self._keys.outcomes):
            try:
                message = decode_outcome(entry.fields.get(b"m", b""))
            except SchemaError:
                self.num_unreadable += 1
                continue
            if self._window.engine_id in (None, message.engine_id):
                at_s = id_parts(entry.entry_id)[0] / 1000
                yield OutcomeEntry(entry.entry_id, at_s, message)

    def _entries(self, stream: str, key: str) -> Iterator[StreamEntry]:
        done = 0
        pages = read_stream(
            self._connection, key, since_s=self._window.since_s, until_s=self._window.until_s
        )
        for page in pages:
            yield from page
            done += len(page)
            if self._on_entries is not None:
                self._on_entries(stream, done, False)
        if self._on_entries is not None:
            self._on_entries(stream, done, True)
