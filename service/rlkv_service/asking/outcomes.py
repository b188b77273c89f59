"""What came of each pause, read from the log and the slots of an engine of ours.

A pause is reported when its session has its next token: then it is known how long the tool took,
how much of the context was still there, and what it cost. An end is reported when it happens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.planner import MemoryPlanner
from rlkv_engine.stepped import SteppedEngine
from rlkv_service.schema import SCHEMA_VERSION, Outcome, SessionEnd, Verb

#: Rows of the log that say something about a pause.
_OF_PAUSES = np.array([S.LOG_ADMIT, S.LOG_PAUSE, S.LOG_RETURN, S.LOG_FIRST_TOKEN, S.LOG_FINISH])


class Reporter(Protocol):
    """Takes outcomes and ends, like ``client.EngineClient``; never blocks."""

    def report(self, outcomes: Sequence[Outcome]) -> object:
        """What came of pauses."""

    def end(self, sessions: Sequence[SessionEnd]) -> object:
        """Sessions that are over."""


class DecidingPlanner(MemoryPlanner, Protocol):
    """A planner that knows what it has decided."""

    policy_version: str

    def verbs_of(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """What was last decided about each slot; -1 of nothing."""


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A session as it was admitted last: of its columns nothing can be read once it has ended."""

    slot: int
    name: str
    turn: int
    input_tokens: int


@dataclass(slots=True)
class _Pause:
    session: str
    turn: int
    tool: str
    context_tokens: int
    input_tokens: int
    output_tokens: int
    kept_tokens: int = 0  #: of the context, in the next prompt
    new_tokens: int = 0
    pause_s: float = 0.0
    ended_s: float = 0.0
    verb: int = -1


class OutcomeReports:
    """A ``MemoryPlanner`` that plans as another one, and reports what comes of it.

    Args:
        planner: plans, and knows what it decided.
        reporter: who is told.
        engine_id: the name of the engine in its messages.
        epoch_s: when the engine's clock was 0, seconds since the epoch; without it that is now.
    """

    def __init__(
        self,
        planner: DecidingPlanner,
        reporter: Reporter,
        engine_id: str,
        epoch_s: float | None = None,
    ) -> None:
        self._planner, self._reporter, self._engine_id = planner, reporter, engine_id
        self._epoch_s = time.time() if epoch_s is None else epoch_s
        self._sessions: dict[int, _Admitted] = {}  # by their numbers
        self._pauses: dict[int, _Pause] = {}
        self._outcomes: list[Outcome] = []
        self._ends: list[SessionEnd] = []
        self._num_read = 0

    def plan_memory(self, engine: SteppedEngine) -> None:
        """Reads what the last iteration has logged, lets the other plan, and reads that."""
        self.follow(engine)
        self._ask_for_tools(engine)
        self._planner.plan_memory(engine)
        self._num_read = 0
        self.follow(engine)

    def follow(self, engine: SteppedEngine) -> None:
        """Reports what has happened; to be called once more after the last iteration."""
        log = engine.log[self._num_read :]
        self._num_read += len(log)
        for row in log[np.isin(log[:, 2], _OF_PAUSES)]:
            sid, code = int(row[3]) + engine.first_sid, int(row[2])
            if code == S.LOG_ADMIT:
                self._note_admission(engine, sid)
            elif code == S.LOG_PAUSE:
                self._begin(engine, sid, int(row[4]))
            elif code == S.LOG_RETURN:
                self._note_return(engine, sid, int(row[4]))
            elif code == S.LOG_FIRST_TOKEN:
                self._end_pause(engine, sid, float(row[4]))
            else:
                self._end_session(engine, sid)
        if self._outcomes:
            self._reporter.report(self._outcomes)
            self._outcomes = []
        if self._ends:
            self._reporter.end(self._ends)
            self._ends = []

    def _note_admission(self, engine: SteppedEngine, sid: int) -> None:
        st = engine.live_state
        if sid in self._sessions:
            slot = self._sessions[sid].slot
        else:
            own = (st.slot[S.PHASE] != S.EMPTY) & (st.slot[S.SID] == sid - engine.first_sid)
            slot = int(np.flatnonzero(own)[0])
        names = engine.names_of(np.array([slot]))
        input_tokens = int(st.turns[S.INPUT_TOKENS, st.slot[S.TURN, slot]])
        self._sessions[sid] = _Admitted(slot, names.sessions[0], int(names.turns[0]), input_tokens)

    def _begin(self, engine: SteppedEngine, sid: int, context_tokens: int) -> None:
        session = self._sessions[sid]
        self._pauses[sid] = _Pause(
            session.name,
            session.turn,
            engine.names_of(np.array([session.slot])).tools[0],
            context_tokens,
            session.input_tokens,
            int(engine.live_state.slot[S.GENERATED, session.slot]),
        )

    def _ask_for_tools(self, engine: SteppedEngine) -> None:
        # A turn may end before anybody says which tool it has called.
        for sid, pause in self._pauses.items():
            if not pause.tool and not pause.ended_s:
                pause.tool = engine.names_of(np.array([self._sessions[sid].slot])).tools[0]

    def _note_return(self, engine: SteppedEngine, sid: int, kept_tokens: int) -> None:
        st, slot = engine.live_state, self._sessions[sid].slot
        pause, turn = self._pauses[sid], st.slot[S.TURN, slot]
        pause.kept_tokens = kept_tokens
        pause.new_tokens = int(st.turns[S.INPUT_TOKENS, turn] - st.turns[S.SHARED_PREFIX, turn])
        returned_s = float(st.real[S.RETURN_AT, slot])
        pause.pause_s = returned_s - float(st.real[S.PAUSE_START, slot])
        pause.ended_s = self._epoch_s + returned_s
        verb = int(self._planner.verbs_of(np.array([slot]))[0])
        pause.verb = int(Verb.SWAP) if verb == S.SWAP_NOW else verb

    def _end_pause(self, engine: SteppedEngine, sid: int, delay_s: float) -> None:
        pause = self._pauses.pop(sid, None)
        if pause is None:
            return  # the first turn
        st, slot = engine.live_state, self._sessions[sid].slot
        loaded, again = int(st.slot[S.LOADED, slot]), int(st.slot[S.RECOMPUTED, slot])
        self._outcomes.append(
            Outcome(
                SCHEMA_VERSION,
                self._engine_id,
                pause.session,
                pause.turn,
                pause.tool,
                pause.pause_s,
                pause.context_tokens,
                input_tokens=pause.input_tokens,
                output_tokens=pause.output_tokens,
                new_tokens=pause.new_tokens,
                # A preemption on the way may have lost what was found.
                reused_device_tokens=max(0, pause.kept_tokens - loaded - again),
                reused_host_tokens=loaded,
                recomputed_tokens=again,
                delay_s=delay_s,
                verb=pause.verb,
                policy_version=self._planner.policy_version,
                started_s=self._epoch_s + float(st.real[S.ARRIVED_AT, slot]),
                ended_s=pause.ended_s,
            )
        )

    def _end_session(self, engine: SteppedEngine, sid: int) -> None:
        # Its slot is empty, but as the session left it: nobody was admitted since.
        st, session = engine.live_state, self._sessions.pop(sid)
        self._pauses.pop(sid, None)
        self._ends.append(
            SessionEnd(
                SCHEMA_VERSION,
                self._engine_id,
                session.name,
                session.turn,
                session.input_tokens,
                int(st.slot[S.GENERATED, session.slot]),
                self._epoch_s + float(st.real[S.ARRIVED_AT, session.slot]),
                self._epoch_s + engine.now_s,
            )
        )
