"""Requests under way, and which answer is whose. No clock and no socket here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlkv_engine.errors import InputError
from rlkv_engine.facts import NUM_FACTS
from rlkv_service.columns import DecisionRows, VerdictRows, request_of, verdict_rows_of
from rlkv_service.schema import (
    MAX_ROWS,
    Reason,
    Refusal,
    SchemaError,
    decode_answer,
    encode,
    version_of,
)

_SIDECAR_REASONS = bytes(reason for reason in Reason if reason < Reason.LATE)


@dataclass(slots=True)
class Asked:
    """A request that is under way."""

    request_id: int
    rows: DecisionRows
    tag: Any  #: the asker's own
    deadline_s: float  #: by ``time.monotonic``
    #: Why it has no answer, should none come: what else came meanwhile may say more than LATE.
    blame: Reason = Reason.LATE


class Settled(NamedTuple):
    """What came of a request: verdicts, or why there are none."""

    asked: Asked
    verdicts: VerdictRows | None
    reason: Reason = Reason.POLICY


class RequestBook:
    """The requests of one connection. An answer settles the request of its id, once, or nothing."""

    def __init__(self, engine_id: str, profile_id: str) -> None:
        self._engine_id, self._profile_id = engine_id, profile_id
        self._next_id = 1
        self._asked: dict[int, Asked] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def open(
        self,
        rows: DecisionRows,
        tag: Any,
        deadline_s: float,
        *,
        reply_to: str,
        server_deadline_s: float | None,
    ) -> tuple[int, bytes]:
        """Begins a request: its id and the message that asks."""
        request_id = self._next_id
        message = request_of(
            rows,
            self._engine_id,
            request_id,
            profile_id=self._profile_id,
            reply_to=reply_to,
            deadline_s=server_deadline_s,
        )
        payload = encode(message)
        self._next_id += 1
        self._asked[request_id] = Asked(request_id, rows, tag, deadline_s)
        return request_id, payload

    def settle(self, answer: bytes, now_s: float) -> Settled | None:
        """Takes an answer; None: no request ends with it."""
        try:
            message = decode_answer(answer)
        except SchemaError:
            return self._unreadable(answer)
        asked = self._asked.pop(message.id, None)
        if asked is None:
            self._unknown(message.id)
            return None
        if now_s > asked.deadline_s:
            return Settled(asked, None, Reason.LATE)
        if isinstance(message, Refusal):
            return Settled(asked, None, Reason.REFUSED)
        try:
            verdicts = verdict_rows_of(message, len(asked.rows))
        except SchemaError:
            return Settled(asked, None, Reason.MALFORMED)
        if message.reason.translate(None, _SIDECAR_REASONS):
            # A reason of clients: a sidecar does not know it.
            return Settled(asked, None, Reason.MALFORMED)
        return Settled(asked, verdicts)

    def expire(self, now_s: float) -> list[Settled]:
        """Ends the requests whose deadline has passed."""
        late = [asked for asked in self._asked.values() if now_s >= asked.deadline_s]
        for asked in late:
            del self._asked[asked.request_id]
        return [Settled(asked, None, asked.blame) for asked in late]

    def give_up(self, reason: Reason, ids: list[int] | None = None) -> list[Settled]:
        """Ends these requests, or all: no answer will come."""
        ended = [
            self._asked.pop(request_id)
            for request_id in (list(self._asked) if ids is None else ids)
            if request_id in self._asked
        ]
        return [Settled(asked, None, reason) for asked in ended]

    def next_deadline_s(self) -> float:
        """When the first of the requests ends; infinite without any."""
        return min((asked.deadline_s for asked in self._asked.values()), default=math.inf)

    def _unreadable(self, answer: bytes) -> Settled | None:
        try:
            _, request_id = version_of(answer)
        except SchemaError:
            request_id = 0
        if (asked := self._asked.pop(request_id, None)) is not None:
            return Settled(asked, None, Reason.MALFORMED)
        if not 0 < request_id < self._next_id:
            self._blame(Reason.MALFORMED)
        return None

    def _unknown(self, request_id: int) -> None:
        # An id that we have given up on is only late.
        if not 0 < request_id < self._next_id:
            self._blame(Reason.MISMATCHED)

    def _blame(self, reason: Reason) -> None:
        for asked in self._asked.values():
            asked.blame = reason


def check_rows(rows: DecisionRows, max_rows: int | None = MAX_ROWS) -> None:
    """Raises ``InputError`` where the arrays of rows do not fit each other."""
    num = len(rows)
    if rows.facts.shape != (num, NUM_FACTS):
        raise InputError(f"facts have the shape {rows.facts.shape}, not ({num}, {NUM_FACTS})")
    if len(rows.turns) != num or len(rows.tools) != num:
        raise InputError(f"{len(rows.turns)} turns and {len(rows.tools)} tools for {num} sessions")
    if max_rows is not None and num > max_rows:
        raise InputError(f"{num} rows at once, at most {max_rows}")
