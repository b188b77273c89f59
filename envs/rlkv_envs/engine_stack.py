"""Engines over a bank of traces, stepped together: what both environments are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.errors import InputError, IntegrityError
from rlkv_engine.layout import build_state, copy_state, grow_slots, reset_engine
from rlkv_engine.trace import Trace
from rlkv_envs.env_settings import EnvSettings
from rlkv_envs.reference_cost import record_reference
from rlkv_envs.stepping import (
    ANSWER,
    NO_DECISION,
    NUM_VERBS,
    START,
    Steps,
    make_steps,
    step_engines,
)

#: Traces without a decision that an episode may draw in a row before it gives up.
MAX_DRAWS = 100


class EngineStack:
    """``num_engines`` engines, each on one trace of a bank.

    Args:
        settings: what to simulate; traces come from the bank alone.
        traces: the bank; the reference rule runs on each of them here, once.
        num_engines: engines to step together.
    """

    def __init__(self, settings: EnvSettings, traces: Sequence[Trace], num_engines: int) -> None:
        if not traces:
            raise InputError("a bank needs at least one trace")
        self.settings = settings
        self.traces = list(traces)
        self.steps: Steps = make_steps(num_engines)
        self._first_session = np.cumsum([0] + [trace.num_sessions for trace in traces])
        self._no_actions = np.zeros(num_engines, np.int64)
        self.state = build_state(
            settings.scenario.profile,
            self.traces,
            settings.table,
            settings.rule,
            settings.config,
            num_engines=num_engines,
            num_slots=64,
            lease_s=settings.lease_s,
        )
        self.reference, self.state = record_reference(self.state, self.traces)
        self.reference_total = self.reference.cost[:, -1].copy()
        if settings.reward == "cost":
            self.reference.cost[:] = 0.0

    def start(self, engine: int, trace: int) -> None:
        """Put an engine to time 0 of a trace; ``run`` brings it to the first decision."""
        reset_engine(self.state, engine, int(self._first_session[trace]), self.traces[trace])
        self.steps.trace[engine] = trace
        self.steps.todo[engine] = START

    def run(self) -> list[int]:
        """Run started engines to their first decisions; those whose trace has none are returned."""
        self._step(self._no_actions)
        return [int(engine) for engine in np.flatnonzero(self.steps.todo == NO_DECISION)]

    def step(self, actions: NDArray[np.int64]) -> None:
        """Answer every engine's decision and run to the next; results are in ``steps``.

        Args:
            actions: verbs, shape ``[num_engines]``.

        Raises:
            InputError: another shape, or something that is no verb.
            IntegrityError: an engine stopped with unfinished sessions.
        """
        if actions.shape != self.steps.todo.shape:
            raise InputError(
                f"actions must have shape {self.steps.todo.shape}, got {actions.shape}"
            )
        if actions.min() < 0 or actions.max() >= NUM_VERBS:
            raise InputError(f"actions must be 0, 1 or 2, got {actions.min()} to {actions.max()}")
        self.steps.todo[:] = ANSWER
        self._step(actions)
        for engine in np.flatnonzero(self.steps.terminated):
            n = self.state.n[engine]
            if n[S.NUM_FINISHED] != n[S.NUM_SESSIONS]:
                raise IntegrityError(
                    f"{n[S.NUM_FINISHED]} of {n[S.NUM_SESSIONS]} sessions finished, nothing can run"
                )

    def fork(self) -> EngineStack:
        """An independent copy in the same state, with the same future."""
        copy = object.__new__(EngineStack)
        copy.__dict__.update(self.__dict__)
        copy.state = copy_state(self.state)
        copy.steps = Steps._make(array.copy() for array in self.steps)
        return copy

    def _step(self, actions: NDArray[np.int64]) -> None:
        horizon_s = float(self.settings.horizon_s)
        while step_engines(self.state, actions, self.steps, self.reference, horizon_s):
            self.state = grow_slots(self.state)
