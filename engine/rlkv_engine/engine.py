"""One simulated engine: a memory state, a scheduler, a cost model and a virtual clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import loop
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.decoding import settle
from rlkv_engine.errors import IntegrityError
from rlkv_engine.estimates import PauseTable, fit_pause_table
from rlkv_engine.facts import NUM_FACTS
from rlkv_engine.integrity import check_integrity
from rlkv_engine.jit import jit
from rlkv_engine.layout import build_state, copy_state, grow_slots
from rlkv_engine.memory import swap_is_legal
from rlkv_engine.observe import NUM_FEATURES, observe, take_facts
from rlkv_engine.offers import answer
from rlkv_engine.profile import Profile
from rlkv_engine.rule import rule_verb
from rlkv_engine.trace import Trace


@dataclass(frozen=True, slots=True)
class Decision:
    """An open question of the engine: what about this paused session?"""

    point: int  #: state.CALL, NEW, RESUME or GROW
    sid: int  #: index of the session in the trace
    turn: int  #: index of its turn, from 0
    take_blocks: int  #: blocks the engine would take at a REVISIT; all firm ones at a CALL
    swap_legal: bool
    rule_verb: int


class Names(NamedTuple):
    """Who is asked about: the sessions of some paused slots, as the world outside calls them."""

    sessions: list[str]
    turns: NDArray[np.int64]  # [n], the turn that ended with the pause, from 0
    tools: list[str]  #: empty where nobody said


@jit
def _run_to_decision(stack: S.State, e: int, until_s: float) -> int:
    return loop.run_to_decision(S.engine_view(stack, e), until_s)


@jit
def _answer(stack: S.State, e: int, verb: int, lease_s: float) -> None:
    answer(S.engine_view(stack, e), verb, lease_s)


@jit
def _observe(stack: S.State, e: int, out: NDArray[np.float32]) -> None:
    observe(S.engine_view(stack, e), out)


@jit
def _take_facts(stack: S.State, e: int) -> None:
    take_facts(S.engine_view(stack, e))


@jit
def _legal(stack: S.State, e: int) -> bool:
    return swap_is_legal(S.engine_view(stack, e))


@jit
def _rule_verb(stack: S.State, e: int) -> int:
    st = S.engine_view(stack, e)
    return rule_verb(st, st.n[S.DECISION_POINT], st.n[S.DECISION_SLOT])


class Engine:
    """Runs a trace on a profile under the rules of docs/scheduler.md.

    Decisions come from ``rule`` inside the compiled loop (``run``), from a network beside it
    (``run(policy)``), or from the caller (``next_decision`` and ``answer``).

    Args:
        profile: what the machine costs.
        trace: sessions with arrivals.
        rule: ``rule.RULE_SIZE`` numbers; decides the order of victims whoever else answers.
        table: pause statistics of training sessions; None fits them on this very trace.
        config: switches of the scheduler.
        lease_s: leases by row of ``table`` for rules that set them, seconds.
        log_rows: rows of plan log to keep, 0 for none.
        keep_outcome: whether ``state.outcome`` is kept, 16 bytes a session.

    Raises:
        InputError: a session is larger than the device pool.
    """

    def __init__(
        self,
        profile: Profile,
        trace: Trace,
        rule: NDArray[np.float64],
        *,
        table: PauseTable | None = None,
        config: EngineConfig | None = None,
        lease_s: NDArray[np.float64] | None = None,
        log_rows: int = 0,
        keep_outcome: bool = False,
    ) -> None:
        self.profile = profile
        self.trace = trace
        self._stack = build_state(
            profile,
            [trace],
            table or fit_pause_table(trace),
            rule,
            config or EngineConfig(),
            num_engines=1,
            num_slots=64,
            lease_s=lease_s,
            log_rows=log_rows,
            keep_outcome=keep_outcome,
        )

    @property
    def state(self) -> S.State:
        """The memory state of this engine; arrays are views, do not write to them."""
        settle(self._stack, 0)
        return S.one_engine(self._stack, 0)

    @property
    def now_s(self) -> float:
        """Virtual time, seconds."""
        return float(self._stack.f[0, S.NOW])

    @property
    def log(self) -> NDArray[np.float64]:
        """Rows of ``now_s, iteration, code, sid, amount``; codes are ``state.LOG_*``."""
        rows = self._stack.log[0]
        return rows[: self._stack.n[0, S.LOG_ROWS]]

    def run(self, policy: loop.Policy, until_s: float = math.inf) -> bool:
        """Let ``policy`` answer every decision; True once every session has finished."""
        while True:
            state = loop.run_policy(self._stack, 0, policy, float(until_s))
            if state != loop.FULL:
                return self._ended(state)
            self._stack = grow_slots(self._stack)

    def next_decision(self, until_s: float = math.inf) -> Decision | None:
        """Run to the next decision; None at ``until_s`` or when every session has finished."""
        while True:
            state = _run_to_decision(self._stack, 0, float(until_s))
            if state == loop.DECIDE:
                return self._decision()
            if state != loop.FULL:
                self._ended(state)
                return None
            self._stack = grow_slots(self._stack)

    def answer(self, verb: int, lease_s: float = math.inf) -> None:
        """Answer the open decision; a SWAP that is not legal keeps at a CALL, else discards."""
        if self._stack.n[0, S.DECISION] == 0:
            raise RuntimeError("no decision is open: call next_decision first")
        _answer(self._stack, 0, int(verb), float(lease_s))

    def observe(self) -> NDArray[np.float32]:
        """Observation of the open decision, shape ``[NUM_FEATURES]`` (``observe.FEATURES``)."""
        if self._stack.n[0, S.DECISION] == 0:
            raise RuntimeError("no decision is open: call next_decision first")
        out = np.zeros(NUM_FEATURES, np.float32)
        _observe(self._stack, 0, out)
        return out

    def facts(self) -> NDArray[np.float64]:
        """Facts of the open decision, shape ``[NUM_FACTS]`` (``facts.FACTS``); a copy."""
        if self._stack.n[0, S.DECISION] == 0:
            raise RuntimeError("no decision is open: call next_decision first")
        _take_facts(self._stack, 0)
        return self._stack.f[0, S.FACTS : S.FACTS + NUM_FACTS].copy()

    @property
    def open_slot(self) -> int:
        """The slot that the open decision is about."""
        return int(self._stack.n[0, S.DECISION_SLOT])

    def names_of(self, slots: NDArray[np.int64]) -> Names:
        """The sessions in some slots, their turns and the tools these have called."""
        sids, columns = self._stack.slot[0, S.SID, slots], self._stack.slot[0, S.TURN, slots]
        trace = self.trace
        tools = trace.tool[columns].tolist()
        return Names(
            [trace.session_ids[sid] for sid in sids.tolist()],
            columns - trace.first_turn[sids],
            [trace.tools[tool] if tool >= 0 else "" for tool in tools],
        )

    def fork(self) -> Engine:
        """An independent copy with the same future."""
        copy = object.__new__(Engine)
        copy.profile, copy.trace = self.profile, self.trace
        copy._stack = copy_state(self._stack)
        return copy

    def check_integrity(self) -> None:
        """Raises ``IntegrityError`` if the books do not add up (see integrity.py)."""
        check_integrity(self.state)

    def _ended(self, state: int) -> bool:
        if state != loop.DONE:
            return False
        finished = int(self._stack.n[0, S.NUM_FINISHED])
        if finished != self.trace.num_sessions:
            raise IntegrityError(
                f"{finished} of {self.trace.num_sessions} sessions finished, nothing can run"
            )
        return True

    def _decision(self) -> Decision:
        n = self._stack.n[0]
        slot = int(n[S.DECISION_SLOT])
        sid = int(self._stack.slot[0, S.SID, slot])
        return Decision(
            point=int(n[S.DECISION_POINT]),
            sid=sid,
            turn=int(self._stack.slot[0, S.TURN, slot] - self.trace.first_turn[sid]),
            take_blocks=int(n[S.DECISION_TAKE]),
            swap_legal=bool(_legal(self._stack, 0)),
            rule_verb=int(_rule_verb(self._stack, 0)),
        )
