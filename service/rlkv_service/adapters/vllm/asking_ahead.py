"""Asks the sidecar before its answer is needed, and does what it says when it comes."""

from __future__ import annotations

from typing import Any, NamedTuple

from rlkv_service.adapters.vllm.actions import Actions
from rlkv_service.adapters.vllm.deciding import Deciding, Verdict
from rlkv_service.adapters.vllm.engine_state import EngineState
from rlkv_service.adapters.vllm.fact_rows import Need
from rlkv_service.adapters.vllm.room import Room
from rlkv_service.adapters.vllm.sessions import Pause, Session
from rlkv_service.columns import VerdictRows
from rlkv_service.schema import Point, Reason, Verb

#: It asks while less than this share of the pool would be left after another requester.
HIGH_WATER = 0.1
#: A session that was asked about in this pause is asked about again so many steps later.
EVERY = 16
#: Sessions asked about at once, a row for each kind of requester.
MAX_CANDIDATES = 16
_POINTS = (Point.NEW, Point.RESUME, Point.GROW)


class _Asked(NamedTuple):
    """A pause that was asked about."""

    session: Session
    pause: Pause


class AskingAhead:
    """Asks about CALLs and REVISITs, and applies the answers.

    Args:
        state: of the engine.
        actions: on paused sessions.
        deciding: who is asked.
        room: who needed how much.
    """

    def __init__(
        self, state: EngineState, actions: Actions, deciding: Deciding, room: Room
    ) -> None:
        self._state, self._actions = state, actions
        self._deciding, self._room = deciding, room

    @staticmethod
    def tag_of_call(session: Session) -> Any:
        """What comes back with the answer about a pause that has just begun."""
        assert session.pause is not None
        return (Point.CALL, [_Asked(session, session.pause)])

    def ask(self) -> None:
        """Asks about those who may have to give up blocks, if memory is getting short."""
        state, room = self._state, self._room
        free = state.pool.num_free
        largest = max(room.last_need.values(), default=0)
        if not len(state.holds) or free - largest >= HIGH_WATER * state.pool.num_blocks:
            return
        due = [
            session
            for session in state.victims()[:MAX_CANDIDATES]
            if session.pause is not None
            and session.pause.back_s is None
            and (
                session.pause.asked_step is None
                or state.num_steps - session.pause.asked_step >= EVERY
            )
        ]
        if not due:
            return
        slack = max(1, state.pool.num_blocks // 100)
        needs = []
        for point in _POINTS:
            need = max(1, room.last_need.get(point, 1))
            needs.append(Need(int(point), need, max(1, need + slack - free)))
        candidates = state.candidates(due, range(len(due)))
        asked = [_Asked(session, session.pause) for session in due if session.pause is not None]
        tag = (None, asked)
        if self._deciding.ask_ahead(state.machine(), state.moment(), candidates, needs, tag):
            state.tally.add("asked_revisits", len(due))
        for _, pause in asked:
            pause.asked_step = state.num_steps

    def collect(self) -> None:
        """Does what answers say that have come; those about pauses that are over are dropped."""
        for (point, asked), verdicts in self._deciding.collect():
            if point == Point.CALL:
                self._answered_call(asked[0], verdicts)
            else:
                self._answered_revisits(asked, verdicts)

    def _is_over(self, asked: _Asked) -> bool:
        is_over = asked.session.pause is not asked.pause or asked.pause.back_s is not None
        self._state.tally.add("stale_answers", is_over)
        return is_over

    def _answered_call(self, asked: _Asked, verdicts: VerdictRows) -> None:
        if not self._is_over(asked):
            verdict = Verdict(
                Verb(int(verdicts.verb[0])),
                float(verdicts.lease_s[0]),
                Reason(int(verdicts.reason[0])).name,
                verdicts.policy_version,
            )
            self._actions.apply(asked.session, verdict)

    def _answered_revisits(self, asked: list[_Asked], verdicts: VerdictRows) -> None:
        for i, each in enumerate(asked):
            if self._is_over(each):
                continue
            rows = slice(i * len(_POINTS), (i + 1) * len(_POINTS))
            for point, verb in zip(_POINTS, verdicts.verb[rows].tolist(), strict=True):
                each.pause.answers[int(point)] = (verb, self._state.num_steps)
            each.pause.policy_version = verdicts.policy_version
            if each.pause.answers[int(Point.NEW)][0] == Verb.SWAP:
                # Copied while nobody needs its blocks yet, it can go at once when somebody does.
                self._actions.store_dirty(each.session)
