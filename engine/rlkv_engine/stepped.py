"""An engine that is stepped: the scheduler plans an iteration, somebody else carries it out.

``Engine.run`` plans, and lets the cost model say how long it took. Here the two are apart, so that
an executor with a model and real copies (``rlkv_engine.paged``) does the work in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import loop
from rlkv_engine import state as S
from rlkv_engine.asked import plan_to_decision
from rlkv_engine.engine import Decision, Engine
from rlkv_engine.errors import IntegrityError
from rlkv_engine.events import next_event_s
from rlkv_engine.interventions import drop_copy
from rlkv_engine.iteration import end_iteration, pass_time, start_iteration
from rlkv_engine.jit import jit
from rlkv_engine.layout import grow_slots
from rlkv_engine.offers import answer

_COPIES = np.array([S.LOG_LOAD, S.LOG_COPY_OUT])


class IterationPlan(NamedTuple):
    """What one iteration does. Copies of it are made beside its batch."""

    expected_s: float  #: its length by the cost model
    num_decode: int  #: sessions that decode, one token each
    prefill_tokens: int
    token_contexts: float  #: sum over the prefill tokens of the tokens before each
    kv_tokens: int  #: that the decoding sessions read
    log: NDArray[np.float64]  #: rows of state.LOG_* of this iteration, shape ``[num_rows, 5]``

    @property
    def has_batch(self) -> bool:
        """Whether anything is computed."""
        return self.num_decode > 0 or self.prefill_tokens > 0

    @property
    def has_work(self) -> bool:
        """Whether anything is computed or copied."""
        return self.has_batch or bool(np.isin(self.log[:, 2], _COPIES).any())

    @property
    def copied_blocks(self) -> int:
        """Blocks that are copied between the tiers, both ways."""
        return int(self.log[np.isin(self.log[:, 2], _COPIES), 4].sum())

    def rows(self, code: int) -> Iterator[tuple[int, int]]:
        """``(sid, amount)`` of each row of a kind, in their order."""
        for row in self.log[self.log[:, 2] == code]:
            yield int(row[3]), int(row[4])


@jit
def _plan_memory(stack: S.State, e: int, policy: loop.Policy) -> int:
    st = S.engine_view(stack, e)
    while True:
        state = loop.plan_memory(st, math.inf)
        if state != loop.DECIDE:
            return state
        answer(st, loop.policy_verb(st, policy), math.inf)


@jit
def _start_iteration(
    stack: S.State, e: int, longest_idle_s: float
) -> tuple[float, int, int, float, int]:
    return start_iteration(S.engine_view(stack, e), longest_idle_s)


@jit
def _end_iteration(stack: S.State, e: int, num_decode: int, dt: float) -> None:
    end_iteration(S.engine_view(stack, e), num_decode, dt)


@jit
def _pass_time(stack: S.State, e: int, dt: float) -> None:
    pass_time(S.engine_view(stack, e), dt)


@jit
def _next_event_s(stack: S.State, e: int) -> float:
    return next_event_s(S.engine_view(stack, e))


@jit
def _drop_copy(stack: S.State, e: int, s: int, computed: int) -> None:
    drop_copy(S.engine_view(stack, e), s, computed)


class SteppedEngine(Engine):
    """An ``Engine`` whose iterations are carried out by the caller.

    One iteration is ``plan_memory``, ``start_iteration``, the work, ``end_iteration``. Give it
    ``log_rows``: the log of an iteration is how its copies are known.
    """

    _viewed: S.State | None = None  # of which ``_view`` is the view
    _view: S.State

    @property
    def first_sid(self) -> int:
        """Number of the session that the state calls 0."""
        return 0

    @property
    def live_state(self) -> S.State:
        """The memory state as it is; decoding sessions may lag behind (see decoding.py)."""
        if self._viewed is not self._stack:
            self._viewed, self._view = self._stack, S.one_engine(self._stack, 0)
        return self._view

    @property
    def stack(self) -> S.State:
        """The state as compiled functions take it: a stack with this engine alone."""
        return self._stack

    def grow(self) -> None:
        """Twice as many slots: what a plan that is FULL asks for."""
        self._stack = grow_slots(self._stack)

    def move_clock(self, now_s: float) -> None:
        """Virtual time moves on to ``now_s``, seconds; never back."""
        dt = now_s - self.now_s
        if dt > 0:
            _pass_time(self._stack, 0, float(dt))

    def plan_memory(self, policy: loop.Policy) -> None:
        """Events, growth and admissions of the next iteration; ``policy`` answers decisions."""
        self.begin_plan()
        while _plan_memory(self._stack, 0, policy) == loop.FULL:
            self.grow()

    def begin_plan(self) -> None:
        """What was logged is forgotten: the next iteration is planned. See ``plan_to_decision``."""
        self._stack.n[0, S.LOG_ROWS] = 0

    def plan_to_decision(self) -> Decision | None:
        """Like ``plan_memory``, up to a decision that is to be answered; None: all is planned."""
        while (state := plan_to_decision(self._stack, 0)) == loop.FULL:
            self.grow()
        return self._decision() if state == loop.DECIDE else None

    def start_iteration(self, longest_idle_s: float = math.inf) -> IterationPlan | None:
        """The batch and the copies of this iteration; None where nothing is left to do.

        Without a batch it lasts until the next event, or ``longest_idle_s`` if that is sooner.
        """
        costs = _start_iteration(self._stack, 0, float(longest_idle_s))
        if math.isinf(costs[0]):
            return None
        if self._stack.n[0, S.LOG_ROWS] == self._stack.log.shape[1]:
            raise IntegrityError(f"an iteration has more than {self._stack.log.shape[1]} log rows")
        return IterationPlan(*costs, self.log)

    def end_iteration(self, plan: IterationPlan, took_s: float) -> None:
        """The work of ``plan`` is done and took so many seconds."""
        _end_iteration(self._stack, 0, plan.num_decode, float(took_s))

    def next_event_s(self) -> float:
        """When something happens by itself, in the engine's time; infinite: never."""
        return float(_next_event_s(self._stack, 0))

    def drop_copy(self, slot: int, computed: int) -> None:
        """The host copy of a slot is of no use; of its context ``computed`` tokens are valid."""
        _drop_copy(self._stack, 0, slot, computed)
