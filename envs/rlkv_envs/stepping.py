"""The compiled step: answer the open decisions of a stack of engines and run each to its next.

A step of one engine covers the time between two of its decisions. Its reward is::

    reward = -((cost now - cost before) - (reference cost now - reference cost before)) / unit

with ``cost`` the engine's running cost (``state.COST``), the reference cost that of the rule at the
same time of the same trace (reference_cost.py), and ``unit`` that run's cost per decision. When an
episode terminates all that is left of the reference cost is credited, so that rewards sum to
``(reference total - total) / unit``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit
from rlkv_engine.loop import DECIDE, FULL, run_to_decision
from rlkv_engine.memory import swap_is_legal
from rlkv_engine.observe import NUM_FEATURES, observe
from rlkv_engine.offers import answer
from rlkv_engine.state import (
    COST,
    COST_LOADING,
    COST_QUEUED,
    DECISION,
    DISCARD,
    HELD_PAUSED,
    NOW,
    PRESERVE,
    RECOMPUTE_S,
    SWAP,
    State,
    engine_view,
)

NUM_VERBS = 3

# What is to be done with an engine.
IDLE, ANSWER, RUN, START, NO_DECISION = (np.int64(k) for k in range(5))

#: Quantities of which a step reports the increments: columns of ``Steps.mark`` and ``Steps.delta``.
TERMS = (
    "dt_s",  # seconds
    "cost",  # s/token: normalized latency run up by all sessions
    "reference_cost",  # s/token, of the reference rule over the same time
    "queueing_cost",  # s/token, the part of cost spent waiting for memory
    "loading_cost",  # s/token, the part of cost spent copying in
    "recompute_s",  # seconds of forward time spent on KV that had been computed before
    "held_block_s",  # block seconds of device memory held firmly by paused sessions
)
NUM_TERMS = len(TERMS)
ELAPSED, SPENT, REFERENCE, QUEUEING, LOADING, RECOMPUTE, HELD = range(NUM_TERMS)


class Steps(NamedTuple):
    """What the steps of a stack of engines read and write."""

    todo: NDArray[np.int64]  # [num_engines]: IDLE, ANSWER, RUN (was full), START, NO_DECISION
    trace: NDArray[np.int64]  # [num_engines], index into the bank
    observation: NDArray[np.float32]  # [num_engines, NUM_FEATURES]
    mask: NDArray[np.bool_]  # [num_engines, NUM_VERBS], True: legal
    reward: NDArray[np.float64]  # [num_engines]
    terminated: NDArray[np.bool_]  # [num_engines], every session has finished
    truncated: NDArray[np.bool_]  # [num_engines], the decision is at or after the horizon
    illegal: NDArray[np.int64]  # [num_engines], SWAPs of this episode that were not legal
    mark: NDArray[np.float64]  # [num_engines, NUM_TERMS], totals up to the last step
    delta: NDArray[np.float64]  # [num_engines, NUM_TERMS], increments in the last step


class Reference(NamedTuple):
    """The cost of the reference rule on every trace of a bank."""

    cost: NDArray[np.float64]  # [num_traces, num_points], s/token at multiples of step_s
    step_s: NDArray[np.float64]  # [num_traces]
    unit: NDArray[np.float64]  # [num_traces], s/token in one reward


def make_steps(num_engines: int) -> Steps:
    """Empty buffers for ``num_engines`` engines, all idle."""
    return Steps(
        todo=np.full(num_engines, IDLE, np.int64),
        trace=np.zeros(num_engines, np.int64),
        observation=np.zeros((num_engines, NUM_FEATURES), np.float32),
        mask=np.zeros((num_engines, NUM_VERBS), np.bool_),
        reward=np.zeros(num_engines),
        terminated=np.zeros(num_engines, np.bool_),
        truncated=np.zeros(num_engines, np.bool_),
        illegal=np.zeros(num_engines, np.int64),
        mark=np.zeros((num_engines, NUM_TERMS)),
        delta=np.zeros((num_engines, NUM_TERMS)),
    )


@jit
def reference_at(reference: Reference, trace: int, now_s: float) -> Any:
    """The reference cost at a time, linear between grid points; the total once the rule is done."""
    x = now_s / reference.step_s[trace]
    last = reference.cost.shape[1] - 1
    if x >= last:
        return reference.cost[trace, last]
    low = int(x)
    part = x - low
    return reference.cost[trace, low] * (1.0 - part) + reference.cost[trace, low + 1] * part


@jit
def _set(steps: Steps, e: int, term: int, total: float) -> None:
    steps.delta[e, term] = total - steps.mark[e, term]
    steps.mark[e, term] = total


@jit
def _look(st: State, steps: Steps, e: int, decides: bool) -> None:
    # Observation and mask of the open decision; zeros and no SWAP when the episode is over.
    steps.mask[e, PRESERVE] = True
    steps.mask[e, SWAP] = decides and swap_is_legal(st)
    steps.mask[e, DISCARD] = True
    if decides:
        observe(st, steps.observation[e])
    else:
        steps.observation[e, :] = 0.0


@jit
def _settle(st: State, steps: Steps, reference: Reference, e: int, terminated: bool) -> None:
    # Terms and reward of the step that has just ended.
    trace = steps.trace[e]
    until_s = math.inf if terminated else st.f[NOW]
    _set(steps, e, ELAPSED, st.f[NOW])
    _set(steps, e, SPENT, st.f[COST])
    _set(steps, e, REFERENCE, reference_at(reference, trace, until_s))
    _set(steps, e, QUEUEING, st.f[COST_QUEUED])
    _set(steps, e, LOADING, st.f[COST_LOADING])
    _set(steps, e, RECOMPUTE, st.f[RECOMPUTE_S])
    _set(steps, e, HELD, st.f[HELD_PAUSED])
    spent = steps.delta[e, SPENT] - steps.delta[e, REFERENCE]
    steps.reward[e] = -spent / reference.unit[trace]


@jit
def step_engines(
    stack: State,
    actions: NDArray[np.int64],
    steps: Steps,
    reference: Reference,
    horizon_s: float,
) -> int:
    """Do what ``steps.todo`` says with every engine of the stack.

    ANSWER carries out ``actions[e]`` and runs to the next decision; START runs to the first
    decision of an episode, leaves reward, terms and flags alone, and becomes NO_DECISION if there
    is none.

    Args:
        stack: the engines; changed.
        actions: verbs, shape ``[num_engines]``; read where ``todo`` is ANSWER.
        steps: buffers; changed. ``todo`` is IDLE for every engine that is done.
        reference: of the bank that ``steps.trace`` indexes.
        horizon_s: an episode is truncated at the first decision at or after this time.

    Returns:
        How many engines ran out of slots: grow the stack and call again.
    """
    num_full = 0
    for e in range(steps.todo.shape[0]):
        if steps.todo[e] == IDLE or steps.todo[e] == NO_DECISION:
            continue
        st = engine_view(stack, e)
        if steps.todo[e] == ANSWER:
            steps.todo[e] = RUN
            if st.n[DECISION] == 1:
                if actions[e] == SWAP and not swap_is_legal(st):
                    steps.illegal[e] += 1
                answer(st, actions[e], math.inf)
        code = run_to_decision(st, math.inf)
        if code == FULL:
            num_full += 1
            continue
        decides = code == DECIDE
        _look(st, steps, e, decides)
        if steps.todo[e] == START:
            steps.illegal[e] = 0
            # Costs count from time 0, so that rewards sum to all of it; dt from the decision.
            for term in range(NUM_TERMS):
                steps.mark[e, term] = 0.0
            steps.mark[e, ELAPSED] = st.f[NOW]
            steps.todo[e] = IDLE if decides else NO_DECISION
            continue
        _settle(st, steps, reference, e, not decides)
        steps.terminated[e] = not decides
        steps.truncated[e] = decides and st.f[NOW] >= horizon_s
        steps.todo[e] = IDLE
    return num_full
