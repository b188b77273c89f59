"""Forked rollouts: at sampled decisions every legal verb is tried under the same future.

A stack of two engines: the first follows the stochastic policy, the second is where branches are
run, greedily, for a fixed time. What one verb costs more than another is then measured, not
estimated: no critic, no generalized advantages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_agents import side_by_side
from rlkv_agents.policy import NUM_VERBS, AgentPolicy
from rlkv_agents.policy_stack import policy_stack
from rlkv_engine.jit import jit, jit_run
from rlkv_engine.layout import grow_slots, reset_engine
from rlkv_engine.loop import DECIDE, FULL, Policy, run_policy, run_to_decision
from rlkv_engine.memory import swap_is_legal
from rlkv_engine.mlp import mlp_logits
from rlkv_engine.observe import NUM_FEATURES, observe
from rlkv_engine.offers import answer
from rlkv_engine.state import (
    ACTIVE_WEIGHT,
    COST,
    DECISION_POINT,
    GROW,
    NOW,
    ONE,
    SPARE,
    SWAP,
    State,
    engine_view,
)
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario


class Forks(NamedTuple):
    """Decisions at which every legal verb was tried; the first axis is the decision."""

    observation: NDArray[np.float32]  # [num_forks, NUM_FEATURES]
    mask: NDArray[np.bool_]  # [num_forks, NUM_VERBS]
    probability: NDArray[np.float64]  # [num_forks, NUM_VERBS], of the policy that was followed
    cost: NDArray[np.float64]  # [num_forks, NUM_VERBS], s/token over the horizon; 0 where illegal


def empty_forks(num_forks: int) -> Forks:
    """Room for so many."""
    return Forks(
        np.zeros((num_forks, NUM_FEATURES), np.float32),
        np.zeros((num_forks, NUM_VERBS), np.bool_),
        np.zeros((num_forks, NUM_VERBS)),
        np.zeros((num_forks, NUM_VERBS)),
    )


@jit
def copy_engine(stack: State, source: int, target: int) -> None:
    """Make one engine of a stack a copy of another, but for what is only noted of it."""
    for row in range(stack.slot.shape[1]):
        for s in range(stack.slot.shape[2]):
            stack.slot[target, row, s] = stack.slot[source, row, s]
    for row in range(stack.real.shape[1]):
        for s in range(stack.real.shape[2]):
            stack.real[target, row, s] = stack.real[source, row, s]
    for i in range(stack.n.shape[1]):
        stack.n[target, i] = stack.n[source, i]
    for i in range(stack.f.shape[1]):
        stack.f[target, i] = stack.f[source, i]


@jit
def _probabilities(policy: Policy, swap_legal: bool, out: NDArray[np.float64]) -> None:
    mlp_logits(policy, out)
    largest = max(out[0], out[2])
    if swap_legal:
        largest = max(largest, out[1])
    total = 0.0
    for verb in range(3):
        out[verb] = math.exp(out[verb] - largest) if verb != 1 or swap_legal else 0.0
        total += out[verb]
    for verb in range(3):
        out[verb] /= total


@jit
def _branch_cost(stack: State, policy: Policy, verb: int, horizon_s: float) -> float:
    # Cost of a verb and of the greedy policy after it, from now on for horizon_s; NaN: no slots.
    copy_engine(stack, 0, 1)
    st = engine_view(stack, 1)
    start = st.f[COST]
    until_s = st.f[NOW] + horizon_s
    answer(st, verb, math.inf)
    if run_policy(stack, ONE, policy, until_s) == FULL:
        return math.nan
    late = max(0.0, st.f[NOW] - until_s)
    return st.f[COST] - st.f[ACTIVE_WEIGHT] * late - start


@jit_run
def follow(
    stack: State,
    policy: Policy,
    uniforms: NDArray[np.float64],
    fork_ratio: float,
    horizon_s: float,
    forks: Forks,
    done: NDArray[np.int64],
) -> int:
    """Run engine 0 of a stack of two along the stochastic policy, forking at random decisions.

    ``done`` holds the decisions and the forks so far. Returns FULL when slots ran out (grow the
    stack and go on), else something else.
    """
    st = engine_view(stack, 0)
    probability = st.f[SPARE : SPARE + 3]
    while True:
        state = run_to_decision(st, math.inf)
        if state != DECIDE:
            return state
        observe(st, policy.observation)
        swap_legal = swap_is_legal(st)
        _probabilities(policy, swap_legal, probability)
        i = 2 * done[0] % (uniforms.shape[0] - 1)
        # A choice must survive the branches, which use the same scratch.
        choice = 0 if uniforms[i] < probability[0] else 2
        if uniforms[i] >= probability[0] and uniforms[i] < probability[0] + probability[1]:
            choice = 1
        ratio = fork_ratio * (0.3 if st.n[DECISION_POINT] == GROW else 1.0)
        k = done[1]
        if uniforms[i + 1] < ratio and k < forks.mask.shape[0]:
            for j in range(policy.observation.shape[0]):
                forks.observation[k, j] = policy.observation[j]
            for verb in range(3):
                legal = verb != SWAP or swap_legal
                forks.mask[k, verb] = legal
                forks.probability[k, verb] = probability[verb]
                forks.cost[k, verb] = 0.0
            for verb in range(3):
                if forks.mask[k, verb]:
                    cost = _branch_cost(stack, policy, verb, horizon_s)
                    if math.isnan(cost):
                        return FULL
                    forks.cost[k, verb] = cost
            done[1] = k + 1
        done[0] += 1
        answer(st, choice, math.inf)


def fork_rollouts(
    scenario: Scenario,
    policy: AgentPolicy,
    traces: Sequence[Trace],
    *,
    forks_per_trace: int,
    horizon_s: float,
    rng: np.random.Generator,
    ask_call: bool = False,
) -> tuple[Forks, int]:
    """Forked decisions of a policy on several traces, and the decisions met on the way."""
    policy = policy.on(scenario)
    uniforms = [rng.random(65536) for _ in traces]
    empty = empty_forks(0)

    def run(trace: Trace, numbers: NDArray[np.float64], ratio: float, forks: Forks) -> list[int]:
        # A stack and scratch of its own: traces run side by side.
        stack = policy_stack(scenario, policy, [trace], num_engines=2, ask_call=ask_call)
        reset_engine(stack, 0, 0, trace)
        compiled, done = policy.compiled(), np.zeros(2, np.int64)
        while follow(stack, compiled, numbers, ratio, horizon_s, forks, done) == FULL:
            stack = grow_slots(stack)
        return done.tolist()

    def count(i: int) -> int:
        return run(traces[i], uniforms[i], 0.0, empty)[0]

    def fork(i: int) -> Forks:
        ratio = min(1.0, forks_per_trace / max(met[i], 1))
        forks = empty_forks(forks_per_trace)
        _, k = run(traces[i], uniforms[i], ratio, forks)
        return Forks(forks.observation[:k], forks.mask[:k], forks.probability[:k], forks.cost[:k])

    # Without branches a trace takes a moment, and meets the same decisions.
    met = list(side_by_side.each(count, range(len(traces))))
    parts = list(side_by_side.each(fork, range(len(traces))))
    together = Forks(
        np.concatenate([part.observation for part in parts]),
        np.concatenate([part.mask for part in parts]),
        np.concatenate([part.probability for part in parts]),
        np.concatenate([part.cost for part in parts]),
    )
    return together, sum(met)
