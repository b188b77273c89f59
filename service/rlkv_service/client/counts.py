"""Who decided, row by row, and what else a client is asked about itself."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rlkv_service.schema import Reason


@dataclass(frozen=True, slots=True)
class Counts:
    """What a client has done since it began."""

    #: Decisions by who decided them and why; from LATE on, nobody answered.
    by_reason: Mapping[Reason, int]
    #: Answers that came when nobody waited for them any more, or that were to no request of ours.
    discarded_answers: int
    #: Outcomes and ends of sessions: that the server has, that wait, and that had no room to wait.
    outcomes_written: int
    outcomes_waiting: int
    outcomes_dropped: int
    #: What went wrong last, for people; empty: nothing has.
    last_error: str

    @property
    def answered(self) -> int:
        """Decisions that a sidecar answered, with its policy or its rule."""
        return sum(num for reason, num in self.by_reason.items() if reason < Reason.LATE)

    @property
    def local(self) -> int:
        """Decisions left to the local rule."""
        return sum(num for reason, num in self.by_reason.items() if reason >= Reason.LATE)


class Tally:
    """Counts while they are made, by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_reason = [0] * len(Reason)
        self._discarded = 0
        self._last_error = ""

    def add(self, reasons: NDArray[np.int8]) -> None:
        """Decisions with these reasons, shape ``[n]``."""
        raw = reasons.tobytes()
        if raw.count(raw[:1]) == len(raw):  # one reason for all of them, as a rule
            if raw:
                self.add_local(Reason(raw[0]), len(raw))
            return
        numbers = np.bincount(reasons, minlength=len(Reason)).tolist()
        with self._lock:
            self._by_reason = [a + b for a, b in zip(self._by_reason, numbers, strict=True)]

    def add_local(self, reason: Reason, num: int) -> None:
        """Decisions that nobody answered."""
        with self._lock:
            self._by_reason[reason] += num

    def discard(self) -> None:
        """An answer that nobody waits for."""
        with self._lock:
            self._discarded += 1

    def error(self, error: BaseException | str) -> None:
        """Something went wrong."""
        self._last_error = str(error) or repr(error)

    def snapshot(self, written: int, waiting: int, dropped: int) -> Counts:
        """As of now, with what the outbox says of outcomes."""
        with self._lock:
            by_reason = {reason: self._by_reason[reason] for reason in Reason}
            return Counts(
                MappingProxyType(by_reason),
                self._discarded, written, waiting, dropped, self._last_error,
            )  # fmt: skip
