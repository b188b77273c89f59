"""An engine that asks ahead: no step waits, what is not answered in time its own policy decides.

While memory is getting short, and when a pause begins, the rows go out in one request; whatever
answers have come are taken in before the next iteration is planned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.ahead import AheadOptions, AnswersAhead, Asked
from rlkv_engine.loop import RULE_POLICY, Policy
from rlkv_engine.stepped import SteppedEngine
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.schema import LOCAL_REASONS, Point, Reason


class Asker(Protocol):
    """Takes rows now and has their verdicts later, like ``client.EngineClient``; never blocks."""

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        """Hands rows over; ``tag`` comes back with their verdicts. False: they are not asked."""

    def collect(self) -> Sequence[tuple[Any, VerdictRows]]:
        """Verdicts that have come since, with the tags of their rows."""


class AskingAhead:
    """A ``planner.MemoryPlanner`` that has its decisions from somebody else, ahead of time.

    Args:
        asker: whom to ask.
        policy: answers inside the loop where no answer is at hand; the engine's rule unless given.
        options: when to ask, and how long answers are good for.
    """

    def __init__(
        self, asker: Asker, policy: Policy = RULE_POLICY, options: AheadOptions | None = None
    ) -> None:
        self._asker, self._policy = asker, policy
        self._ahead = AnswersAhead(options or AheadOptions())
        #: Version of the policy that answered last.
        self.policy_version = ""

    def plan_memory(self, engine: SteppedEngine) -> None:
        """Takes in answers, plans, and asks what the plan leaves open."""
        for asked, verdicts in self._asker.collect():
            self._take_in(engine, asked, verdicts)
        self._ahead.plan_memory(engine, self._policy)
        if (asking := self._ahead.rows(engine)) is not None:
            asked, facts = asking
            names = engine.names_of(asked.slots)
            rows = DecisionRows(names.sessions, names.turns, names.tools, facts)
            if not self._asker.ask(rows, asked):
                self._ahead.store(engine, asked, *_not_asked(len(rows)))

    @property
    def reasons(self) -> Counter[Reason]:
        """Decisions by who decided and why."""
        return _counter(self._ahead.counts.sum(axis=0))

    def reasons_at(self, point: Point) -> Counter[Reason]:
        """Decisions at one point by who decided and why."""
        return _counter(self._ahead.counts[point])

    def verbs_of(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """What was last decided about each slot; -1 of nothing."""
        return self._ahead.applied_to(slots)

    def _take_in(self, engine: SteppedEngine, asked: Asked, verdicts: VerdictRows) -> None:
        self._ahead.store(engine, asked, verdicts.verb, verdicts.reason, verdicts.lease_s)
        if (verdicts.reason < LOCAL_REASONS[0]).any():
            self.policy_version = verdicts.policy_version


def asked_share(reasons: Counter[Reason]) -> float:
    """Share of the decisions that whoever was asked has answered."""
    total = reasons.total()
    return sum(n for r, n in reasons.items() if r not in LOCAL_REASONS) / total if total else 0.0


def _not_asked(num: int) -> tuple[NDArray[np.int8], NDArray[np.int8], NDArray[np.float32]]:
    reasons = np.full(num, Reason.NOT_ASKED, np.int8)
    return np.zeros(num, np.int8), reasons, np.zeros(num, np.float32)


def _counter(counts: NDArray[np.int64]) -> Counter[Reason]:
    return Counter({Reason(i): num for i, num in enumerate(counts.tolist()) if num})


class AgedAnswers:
    """An ``Asker`` in this process whose answers come a number of iterations late.

    Args:
        answerer: answers rows at once.
        age: iterations from the one that asks to the first that can use the answer, at least 1.
            ``collect`` is called once in each.
    """

    def __init__(self, answerer: Callable[[DecisionRows], VerdictRows], age: int) -> None:
        self._answerer, self._age = answerer, age
        self._under_way: list[tuple[int, Any, VerdictRows]] = []
        self._iteration = 0

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        """Answers, and keeps the answer back."""
        due = self._iteration + self._age
        self._under_way.append((due, tag, self._answerer(rows)))
        return True

    def collect(self) -> list[tuple[Any, VerdictRows]]:
        """An iteration begins: what is old enough by now."""
        self._iteration += 1
        due = [each for each in self._under_way if each[0] <= self._iteration]
        del self._under_way[: len(due)]
        return [(tag, verdicts) for _, tag, verdicts in due]
