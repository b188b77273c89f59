"""An ``EngineClient`` without a network: a test says what it answers, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlkv_service.client.counts import Counts, Tally
from rlkv_service.columns import DecisionRows, VerdictRows, check_facts
from rlkv_service.schema import Outcome, Reason, SessionEnd, Verb

VERSION = "scripted"


class ScriptedClient:
    """Answers rows as ``verb_of`` says, when ``answer`` is called."""

    def __init__(self, verb_of: Callable[[DecisionRows, int], Verb]) -> None:
        self.verb_of = verb_of
        self.asked: list[tuple[DecisionRows, Any]] = []
        self.arrived: list[tuple[Any, VerdictRows]] = []
        self.outcomes: list[Outcome] = []
        self.ends: list[SessionEnd] = []
        self.is_dead = False
        self.lease_s = 60.0
        self.tally = Tally()

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        check_facts(rows.facts)
        if self.is_dead:
            self.tally.add_local(Reason.BREAKER_OPEN, len(rows))
            return False
        self.asked.append((rows, tag))
        return True

    def answer(self, num: int | None = None) -> None:
        """The oldest questions are answered."""
        for rows, tag in self.asked[:num]:
            count = len(rows)
            verbs = np.array([self.verb_of(rows, i) for i in range(count)], np.int8)
            zeros = np.zeros(count, np.float32)
            self.arrived.append(
                (
                    tag,
                    VerdictRows(
                        VERSION,
                        verbs,
                        np.full(count, self.lease_s, np.float32),
                        np.zeros(count, np.int8),
                        zeros,
                        zeros,
                        zeros,
                        np.zeros(count, np.int8),
                        np.full(count, Reason.POLICY, np.int8),
                    ),
                )
            )
        self.asked = self.asked[len(self.asked[:num]) :]

    def collect(self) -> list[tuple[Any, VerdictRows]]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def report(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes += outcomes

    def end(self, sessions: Sequence[SessionEnd]) -> None:
        self.ends += sessions

    @property
    def counts(self) -> Counts:
        return self.tally.snapshot(len(self.outcomes), 0, 0)

    def close(self) -> None:
        self.is_dead = True
