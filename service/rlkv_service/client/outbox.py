"""Outcomes and ends of sessions that wait until the server has them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from rlkv_engine.errors import InputError
from rlkv_service.schema import (
    MAX_NAME_LENGTH,
    Outcome,
    SchemaError,
    SessionEnd,
    decode,
    encode,
)

#: Messages written in one step; each takes about 200 bytes.
MAX_BATCH = 128


class Ticket(NamedTuple):
    """Messages that were put in together: from the first on, up to the end."""

    first: int
    end: int


class Outbox:
    """A bounded queue; the oldest messages go where there is no room. For any thread.

    Args:
        max_messages: that wait at most.
    """

    def __init__(self, max_messages: int) -> None:
        self._max_messages = max_messages
        self._lock = threading.Lock()
        self._waiting: deque[Outcome | SessionEnd] = deque()
        self._first = 0  # number of the message that has waited longest
        self._dropped_before = 0  # of messages before this number some were dropped
        self._under_way = 0  # messages before this number are being written
        self._num_dropped = 0

    def put(self, messages: Sequence[Outcome | SessionEnd]) -> Ticket:
        """Takes messages.

        Raises:
            InputError: one is no outcome and no end of a session, or a value in it cannot be.
        """
        for message in messages:
            if not isinstance(message, Outcome | SessionEnd):
                raise InputError(f"{type(message).__name__} is no Outcome and no SessionEnd")
            try:
                decode(encode(message), type(message))
            except (SchemaError, TypeError, ValueError, OverflowError) as error:
                raise InputError(
                    f"nobody can read this {type(message).__name__}: {error}"
                ) from error
            for name in (message.engine_id, message.session):
                if len(name) > MAX_NAME_LENGTH:
                    raise InputError(f"a name of {len(name)} characters, at most {MAX_NAME_LENGTH}")
        with self._lock:
            self._waiting.extend(messages)
            end = self._first + len(self._waiting)
            while len(self._waiting) > self._max_messages:
                self._waiting.popleft()
                self._first += 1
                self._num_dropped += 1
                self._dropped_before = self._first
            return Ticket(end - len(messages), end)

    def begin(self) -> list[Outcome | SessionEnd]:
        """The oldest messages, to be written in one step; they stay until ``written``."""
        with self._lock:
            batch = list(islice(self._waiting, MAX_BATCH))
            self._under_way = self._first + len(batch)
            return batch

    def written(self) -> None:
        """The server has what ``begin`` gave."""
        with self._lock:
            while self._first < self._under_way:
                self._waiting.popleft()
                self._first += 1

    def was_written(self, ticket: Ticket) -> bool:
        """Whether the server has all of these messages."""
        with self._lock:
            return self._first >= ticket.end and ticket.first >= self._dropped_before

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_written(self) -> int:
        """Messages that the server has."""
        return self._first - self._num_dropped

    @property
    def num_dropped(self) -> int:
        """Messages that had no room."""
        return self._num_dropped
