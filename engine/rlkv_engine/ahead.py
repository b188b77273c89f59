"""When to ask ahead and about what, and the answers at hand: the engine's side, compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import loop
from rlkv_engine import state as S
from rlkv_engine.answers import (
    LATE,
    MAX_CALLS,
    NO_VERB,
    Answers,
    grow_answers,
    make_answers,
    plan_with_answers,
    store_answers,
)
from rlkv_engine.errors import InputError
from rlkv_engine.facts import NUM_FACTS
from rlkv_engine.hypothetical import (
    NUM_KINDS,
    Candidates,
    copy_row,
    first_candidates,
    make_candidates,
    write_offer,
)
from rlkv_engine.jit import jit
from rlkv_engine.state import CALL, NEW, ZERO, State, engine_view
from rlkv_engine.stepped import SteppedEngine

#: Decisions in a request at most (``schema.MAX_ROWS``).
_MAX_ROWS = 1024


@dataclass(frozen=True, slots=True)
class AheadOptions:
    """When an engine asks ahead, and how long it uses the answers (docs/asking-ahead.md).

    Args:
        high_water: it asks while less than this share of the device pool would be free or
            reclaimable once another requester has what the largest needed lately.
        every: about a session that it has asked about in this pause it asks again so many
            iterations later.
        max_candidates: it asks about so many sessions for each kind of requester.
        max_age: an answer is used for so many iterations.
        use_leases: whether a PRESERVE at a CALL holds no longer than the verdict's lease.

    Raises:
        InputError: one of them cannot be.
    """

    high_water: float = 0.1
    every: int = 16
    max_candidates: int = 16
    max_age: int = 256
    use_leases: bool = False

    def __post_init__(self) -> None:
        """Checks them."""
        if not 0.0 <= self.high_water <= 1.0:
            raise InputError(f"high_water must be between 0 and 1 (got {self.high_water})")
        for name in ("every", "max_candidates", "max_age"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1 (got {getattr(self, name)})")
        most = (_MAX_ROWS - MAX_CALLS) // NUM_KINDS
        if self.max_candidates > most:
            raise InputError(f"max_candidates must be at most {most} (got {self.max_candidates})")


class Asked(NamedTuple):
    """Rows that are under way: whom they are about, and the moment that their facts are of."""

    points: NDArray[np.int64]  # [n]
    slots: NDArray[np.int64]  # [n]
    pause_start: NDArray[np.float64]  # [n]
    asked_at: int  #: iteration


class AnswersAhead:
    """The answers that an engine has, and the questions that it should ask."""

    def __init__(self, options: AheadOptions) -> None:
        self._options = options
        self._answers = make_answers(0)
        self._candidates = make_candidates(options.max_candidates)
        most = MAX_CALLS + NUM_KINDS * options.max_candidates
        self._facts = np.zeros((most, NUM_FACTS))
        self._points, self._slots = np.zeros(most, np.int64), np.zeros(most, np.int64)
        self._pause_start = np.zeros(most)
        self._asked_at = -options.every

    @property
    def counts(self) -> NDArray[np.int64]:
        """Decisions so far by point and reason, shape ``[4, NUM_REASONS]``; a copy."""
        return self._answers.counts.copy()

    def applied_to(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Verb of the last decision about each slot; ``NO_VERB`` of none."""
        return self._answers.applied[slots]

    def plan_memory(self, engine: SteppedEngine, policy: loop.Policy) -> None:
        """One iteration's memory; ``policy`` answers where no answer is at hand."""
        engine.begin_plan()
        self._fit(engine)
        while (
            plan_with_answers(engine.stack, 0, policy, self._answers, self._options.max_age)
            == loop.FULL
        ):
            engine.grow()
            self._fit(engine)

    def rows(self, engine: SteppedEngine) -> tuple[Asked, NDArray[np.float64]] | None:
        """What to ask now, and its facts ``[n, NUM_FACTS]``; None: nothing."""
        self._fit(engine)
        iteration = int(engine.live_state.n[S.ITERATION])
        again = iteration - self._asked_at >= self._options.every
        num = _rows_to_ask(
            engine.stack, 0, self._answers, self._candidates, self._below_blocks(engine), again,
            self._points, self._slots, self._pause_start, self._facts,
        )  # fmt: skip
        if num == 0:
            return None
        if again and self._points[num - 1] != CALL:
            self._asked_at = iteration
        asked = Asked(
            self._points[:num].copy(),
            self._slots[:num].copy(),
            self._pause_start[:num].copy(),
            iteration,
        )
        return asked, self._facts[:num].copy()

    def store(
        self,
        engine: SteppedEngine,
        asked: Asked,
        verbs: NDArray[np.int8],
        reasons: NDArray[np.int8],
        lease_s: NDArray[np.float32],
    ) -> None:
        """Verdicts have come, all ``[n]``: verb, ``schema.Reason``, lease of a PRESERVE."""
        self._fit(engine)
        if not self._options.use_leases:
            lease_s = np.full(len(verbs), np.inf, np.float32)
        store_answers(
            engine.stack, 0, self._answers, asked.points, asked.slots, asked.pause_start,
            # Copies: of arrays that may not be written to, another function would be compiled.
            asked.asked_at, self._options.max_age, np.array(verbs, np.int8),
            np.array(reasons, np.int8), np.array(lease_s, np.float32),
        )  # fmt: skip

    def _below_blocks(self, engine: SteppedEngine) -> float:
        return float(self._options.high_water * engine.profile.num_device_blocks)

    def _fit(self, engine: SteppedEngine) -> None:
        num_slots = engine.stack.slot.shape[2]
        if num_slots > len(self._answers.applied):
            self._answers = grow_answers(self._answers, num_slots)


@jit
def _rows_to_ask(
    stack: State,
    e: int,
    answers: Answers,
    candidates: Candidates,
    below_blocks: float,
    again: bool,
    points: NDArray[np.int64],
    slots: NDArray[np.int64],
    pause_start: NDArray[np.float64],
    facts: NDArray[np.float64],
) -> int:
    # The CALLs of this iteration; while less is available, offers to every kind of requester:
    # candidates that were not asked about in this pause, and all of them where it is time again.
    st = engine_view(stack, e)
    num = answers.num_calls[0]
    for i in range(num):
        points[i] = CALL
        slots[i] = answers.call_slot[i]
        copy_row(answers.call_facts[i], facts[i])
    answers.num_calls[0] = 0
    most = ZERO
    for kind in range(NEW, NEW + NUM_KINDS):
        most = max(most, answers.usual_need[kind])
    left = st.n[S.FREE] + st.n[S.RECLAIMABLE] - most
    if st.n[S.PAUSED_FIRM] > 0 and left < below_blocks:
        found = first_candidates(st, candidates)
        for kind in range(NEW, NEW + NUM_KINDS):
            if again or _any_unasked(st, answers, kind, candidates, found):
                write_offer(st, kind, answers.usual_need, candidates, found, facts[num:])
                num = _keep_rows(
                    st, answers, kind, candidates, found, again, num, points, slots, facts
                )
    for i in range(num):
        point, s = points[i], slots[i]
        pause_start[i] = st.real[S.PAUSE_START, s]
        if answers.pause_start[point, s] != pause_start[i]:
            answers.pause_start[point, s] = pause_start[i]
            answers.verb[point, s] = NO_VERB
            answers.reason[point, s] = LATE
    return num


@jit
def _is_unasked(st: State, answers: Answers, kind: int, s: int) -> bool:
    return answers.pause_start[kind, s] != st.real[S.PAUSE_START, s]


@jit
def _any_unasked(
    st: State, answers: Answers, kind: int, candidates: Candidates, num_candidates: int
) -> bool:
    for i in range(num_candidates):
        if _is_unasked(st, answers, kind, candidates.slot[i]):
            return True
    return False


@jit
def _keep_rows(
    st: State,
    answers: Answers,
    kind: int,
    candidates: Candidates,
    num_candidates: int,
    again: bool,
    first: int,
    points: NDArray[np.int64],
    slots: NDArray[np.int64],
    facts: NDArray[np.float64],
) -> int:
    # Of the rows of an offer from ``first`` on, those that are to be asked; where they end.
    end = first
    for i in range(num_candidates):
        if again or _is_unasked(st, answers, kind, candidates.slot[i]):
            points[end] = kind
            slots[end] = candidates.slot[i]
            if end != first + i:
                copy_row(facts[first + i], facts[end])
            end += 1
    return end
