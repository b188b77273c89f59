"""Compiled search for good answers of one trace whose future is known.

Two searches, both with a policy that answers wherever they do not:

- *rollout*: at every decision each legal verb is tried, the policy goes on to a horizon, the
  cheapest verb is kept (Bertsekas, Rollout Algorithms for Discrete Optimization, 2010);
- *segments*: the trace is cut into short stretches of time; in each, many variants of the best
  answers so far are tried, priced by what the policy pays from there to a horizon.

Nothing here sees more of an engine than ``answer`` and its cost; the future is what branches ran.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.forking import copy_engine
from rlkv_engine.jit import jit
from rlkv_engine.loop import DECIDE, DONE, FULL, Policy, policy_verb, run_policy, run_to_decision
from rlkv_engine.memory import swap_is_legal
from rlkv_engine.offers import answer
from rlkv_engine.state import (
    ACTIVE_WEIGHT,
    CALL,
    COST,
    DECISION_POINT,
    DISCARD,
    NOW,
    PRESERVE,
    SWAP,
    SWAP_NOW,
    ZERO,
    State,
    engine_view,
)

#: Engines of a search's stack: where the plan is, a branch, where the best branch and this one
#: ended their segment.
MAIN, BRANCH, BEST, END = (cast(int, np.int64(k)) for k in range(4))
NUM_ENGINES = 4
#: ``flip`` of a plan that is followed as it is; ``most`` of one that is not cut short.
NOWHERE, ANY_NUMBER = (cast(int, np.int64(k)) for k in (-1, 1 << 60))
#: What ``run_plan`` returns beside ``loop.DECIDE``, ``DONE``, ``FULL`` and ``TIME_UP``.
NO_ROOM = 4

U1 = NDArray[np.uint8]
I8 = NDArray[np.int64]
F8 = NDArray[np.float64]
Points = NDArray[np.bool_]


@jit
def legal_verb(st: State, verb: int) -> int:
    """The verb that an answer comes to: a SWAP that is not legal keeps at a CALL, else discards."""
    if verb == SWAP and not swap_is_legal(st):
        return PRESERVE if st.n[DECISION_POINT] == CALL else DISCARD
    return verb


@jit
def _may_answer(st: State, verb: int) -> bool:
    if verb == SWAP_NOW:
        return st.n[DECISION_POINT] == CALL
    return verb != SWAP or swap_is_legal(st)


@jit
def _another_verb(st: State, verb: int, uniform: float) -> int:
    # One of the other legal verbs at random.
    swap = verb != SWAP and swap_is_legal(st)
    count = (verb != PRESERVE) + swap + (verb != DISCARD)
    which = min(int(uniform * count), count - 1)
    if verb != PRESERVE:
        if which == 0:
            return PRESERVE
        which -= 1
    if swap:
        if which == 0:
            return SWAP
        which -= 1
    return DISCARD


@jit
def base_verb(stack: State, e: int, policy: Policy) -> int:
    """The policy's verb for the open decision of an engine, as what it comes to."""
    st = engine_view(stack, e)
    return legal_verb(st, policy_verb(st, policy))


@jit
def run_plan(
    stack: State,
    e: int,
    policy: Policy,
    until_s: float,
    most: int,
    points: Points,
    lead: U1,
    num_lead: int,
    flip: int,
    ratio: float,
    uniforms: F8,
    done: I8,
    answers: U1,
) -> int:
    """Run an engine by the answers of a plan as long as there are some, then by the policy.

    Only at decision points in ``points`` (shape ``[4]``) the policy is departed from: by the
    plan's answer, at answer number ``flip`` by another one, and after the plan's ``num_lead``
    answers by another one with probability ``ratio``. Answers of a plan that are not legal are
    the policy's.

    ``done`` holds the number of answers given, which are written to ``answers``, and the number
    of ``uniforms`` used. Returns DECIDE at an open decision after ``most`` answers, TIME_UP at
    ``until_s``, DONE, FULL without a slot for a session, NO_ROOM where ``answers`` is full.
    """
    st = engine_view(stack, e)
    k = done[0] = 0
    while True:
        state = run_to_decision(st, until_s)
        if state != DECIDE or k == most:
            return state
        if k == answers.shape[0]:
            return NO_ROOM
        verb = legal_verb(st, policy_verb(st, policy))
        if points[st.n[DECISION_POINT]]:
            if k < num_lead and _may_answer(st, int(lead[k])):
                verb = int(lead[k])
            draw = k >= num_lead and ratio > 0.0
            if draw:
                draw = uniforms[done[1] % uniforms.shape[0]] < ratio
                done[1] += 1
            if k == flip or draw:
                verb = _another_verb(st, verb, uniforms[done[1] % uniforms.shape[0]])
                done[1] += 1
        answers[k] = verb
        k += 1
        done[0] = k
        answer(st, verb, math.inf)


@jit
def _cost_until(stack: State, policy: Policy, until_s: float) -> float:
    # Cost of the branch since time 0 when the policy goes on to until_s; NaN: no slots.
    st = engine_view(stack, BRANCH)
    if run_policy(stack, BRANCH, policy, until_s) == FULL:
        return math.nan
    return st.f[COST] - st.f[ACTIVE_WEIGHT] * max(0.0, st.f[NOW] - until_s)


@jit
def roll_out(
    stack: State, policy: Policy, points: Points, horizon_s: float, done: I8, answers: U1
) -> int:
    """Run the main engine to the end, at each decision by the verb that is cheapest by rollout.

    ``done`` holds the answers given (kept in ``answers``) and the branches run. The policy's own
    verb wins ties. Returns as ``run_plan`` does; after FULL grow the stack and call it again.
    """
    st = engine_view(stack, MAIN)
    while True:
        k = done[0]
        if k == answers.shape[0]:
            return NO_ROOM
        state = run_to_decision(st, math.inf)
        if state != DECIDE:
            return state
        best = base_verb(stack, MAIN, policy)
        if points[st.n[DECISION_POINT]]:
            swap_legal = swap_is_legal(st)
            until_s = st.f[NOW] + horizon_s
            own = best
            best_cost = math.inf
            # The policy's own verb first, then the others.
            for i in range(4):
                verb = own if i == 0 else i - 1
                if (i > 0 and verb == own) or (verb == SWAP and not swap_legal):
                    continue
                copy_engine(stack, MAIN, BRANCH)
                answer(engine_view(stack, BRANCH), verb, math.inf)
                cost = _cost_until(stack, policy, until_s)
                if math.isnan(cost):
                    return FULL
                done[1] += 1
                if cost < best_cost:
                    best_cost = cost
                    best = verb
        answers[k] = best
        done[0] = k + 1
        answer(st, best, math.inf)


@jit
def search_segment(
    stack: State,
    policy: Policy,
    points: Points,
    until_s: float,
    horizon_s: float,
    num_variants: int,
    ratio: float,
    uniforms: F8,
    done: I8,
    best: U1,
    tried: U1,
) -> int:
    """Move the main engine to ``until_s`` by the best answers found for this stretch.

    The first variant is the policy; each later one changes one answer of the best so far and goes
    on with its other answers, or with the policy and further changes at random. A variant's price
    is the cost to ``until_s + horizon_s`` with the policy after ``until_s``.

    ``done`` holds the answers of the best (kept in ``best``), the uniforms used and the branches
    run. Returns FULL (nothing has moved: grow the stack, call again), NO_ROOM, DONE or TIME_UP.
    """
    count = done[2:4]
    best_cost = math.inf
    best_state = DONE
    num_best = 0
    for variant in range(num_variants):
        if variant > 0 and num_best == 0:
            break
        copy_engine(stack, MAIN, BRANCH)
        flip, num_lead, rate = NOWHERE, ZERO, 0.0
        count[1] = done[1]
        if variant > 0:
            draw = uniforms[count[1] % uniforms.shape[0]]
            by_index = uniforms[(count[1] + 1) % uniforms.shape[0]] < 0.5
            count[1] += 2
            flip = min(int(draw * num_best), num_best - 1)
            num_lead = num_best if by_index else flip + 1
            rate = 0.0 if by_index else ratio
        state = run_plan(
            stack, BRANCH, policy, until_s, ANY_NUMBER, points, best, num_lead, flip, rate,
            uniforms, count, tried,
        )  # fmt: skip
        done[1] = count[1]
        if state in (FULL, NO_ROOM):
            return state
        copy_engine(stack, BRANCH, END)
        cost = _cost_until(stack, policy, until_s + horizon_s)
        if math.isnan(cost):
            return FULL
        done[4] += 1
        if cost < best_cost:
            best_cost = cost
            best_state = state
            num_best = count[0]
            for k in range(num_best):
                best[k] = tried[k]
            copy_engine(stack, END, BEST)
    copy_engine(stack, BEST, MAIN)
    done[0] = num_best
    return best_state
