"""What a teacher would answer along a student's own path: the data that cloning learns from.

DAgger (Ross, Gordon and Bagnell, 2011): the student's answers are carried out, the teacher's are
written down, so that the student learns what to do where its own mistakes lead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.policy import NUM_VERBS, AgentPolicy
from rlkv_agents.policy_stack import policy_stack
from rlkv_engine.jit import jit
from rlkv_engine.layout import grow_slots, reset_engine
from rlkv_engine.loop import DECIDE, FULL, Policy, policy_verb, run_to_decision
from rlkv_engine.memory import swap_is_legal
from rlkv_engine.observe import NUM_FEATURES, observe
from rlkv_engine.offers import answer
from rlkv_engine.rule import RULE_SIZE
from rlkv_engine.state import (
    CALL,
    DECISION_POINT,
    DISCARD,
    PRESERVE,
    RULE,
    SWAP,
    State,
    engine_view,
)
from rlkv_engine.trace import Trace
from rlkv_engine.tree import NUM_POINTS
from rlkv_envs.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Teacher:
    """What is right on one machine."""

    scenario: Scenario
    policy: AgentPolicy


class Demonstrations(NamedTuple):
    """Decisions with the verb that the teacher would have answered; the decision comes first.

    As many are kept of each decision point at most, so that the rare ones are learnt too.
    """

    observation: NDArray[np.float32]  # [num, NUM_FEATURES]
    mask: NDArray[np.bool_]  # [num, NUM_VERBS]
    verb: NDArray[np.int64]  # [num]
    point: NDArray[np.int64]  # [num]
    weight: NDArray[np.float64]  # [num], decisions that each stands for


@jit
def _teacher_verb(
    st: State,
    teacher: Policy,
    rule: NDArray[np.float64],
    own: NDArray[np.float64],
    swap_legal: bool,
) -> int:
    # The teacher sees the decision through its own rule; the engine's is put back.
    for i in range(rule.shape[0]):
        own[i] = st.f[RULE + i]
        st.f[RULE + i] = rule[i]
    verb = policy_verb(st, teacher)
    for i in range(rule.shape[0]):
        st.f[RULE + i] = own[i]
    if verb == SWAP and not swap_legal:
        return PRESERVE if st.n[DECISION_POINT] == CALL else DISCARD
    return verb


@jit
def watch(
    stack: State,
    student: Policy,
    teacher: Policy,
    rule: NDArray[np.float64],
    own: NDArray[np.float64],
    obey_teacher: bool,
    uniforms: NDArray[np.float64],
    keep_ratio: NDArray[np.float64],
    demos: Demonstrations,
    done: NDArray[np.int64],
) -> int:
    """Run engine 0 to its end, writing down the teacher's verb at random decisions.

    ``keep_ratio [NUM_POINTS]`` is the share of decisions of each point to keep; ``done`` counts all
    decisions, the kept ones, then all and kept by point. Returns as ``run_to_decision`` does.
    """
    st = engine_view(stack, 0)
    room = demos.verb.shape[0] // 4
    while True:
        state = run_to_decision(st, math.inf)
        if state != DECIDE:
            return state
        swap_legal = swap_is_legal(st)
        verb = _teacher_verb(st, teacher, rule, own, swap_legal)
        point = st.n[DECISION_POINT]
        chosen = verb
        if not obey_teacher:
            chosen = policy_verb(st, student)
        u = uniforms[done[0] % uniforms.shape[0]]
        if u < keep_ratio[point] and done[6 + point] < room:
            observe(st, student.observation)
            k = done[1]
            for j in range(student.observation.shape[0]):
                demos.observation[k, j] = student.observation[j]
            for v in range(3):
                demos.mask[k, v] = v != SWAP or swap_legal
            demos.verb[k] = verb
            demos.point[k] = point
            done[1] = k + 1
            done[6 + point] += 1
        done[0] += 1
        done[2 + point] += 1
        answer(st, chosen, math.inf)


def demonstrate(
    teacher: Teacher,
    student: AgentPolicy,
    traces: Sequence[Trace],
    *,
    obey_teacher: bool,
    num_per_trace: int,
    rng: np.random.Generator,
    ask_call: bool = True,
) -> Demonstrations:
    """The teacher's verbs along the student's path (its own path with ``obey_teacher``).

    Both know of pauses what the student knows. Without ``ask_call`` the student's rule answers
    CALLs, and nothing is shown of them.
    """
    scenario = teacher.scenario
    student = student.on(scenario)
    stack = policy_stack(scenario, student, traces, num_engines=2, ask_call=ask_call)
    compiled, compiled_teacher = student.compiled(), teacher.policy.compiled()
    rule, own = teacher.policy.rule.params(student.table(scenario)), np.zeros(RULE_SIZE)
    parts, first_session = [], 0
    # Decisions cannot be counted in advance: the first trace is sampled evenly.
    keep = np.full(NUM_POINTS, 0.1)
    for trace in traces:
        demos = Demonstrations(
            np.zeros((num_per_trace, NUM_FEATURES), np.float32),
            np.zeros((num_per_trace, NUM_VERBS), np.bool_),
            np.zeros(num_per_trace, np.int64),
            np.zeros(num_per_trace, np.int64),
            np.ones(num_per_trace),
        )
        done = np.zeros(2 + 2 * NUM_POINTS, np.int64)
        uniforms = rng.random(65_521)
        reset_engine(stack, 0, first_session, trace)
        while (
            watch(
                stack, compiled, compiled_teacher, rule, own, obey_teacher, uniforms, keep, demos,
                done,
            )
            == FULL
        ):  # fmt: skip
            stack = grow_slots(stack)
        k = int(done[1])
        stands_for = done[2:6] / np.maximum(done[6:], 1)
        demos.weight[:k] = stands_for[demos.point[:k]]
        parts.append(Demonstrations._make(array[:k] for array in demos))
        keep = np.minimum(1.0, num_per_trace / NUM_POINTS / np.maximum(done[2:6], 1))
        first_session += trace.num_sessions
    return join(parts)


def join(parts: Sequence[Demonstrations]) -> Demonstrations:
    """All of them behind each other."""
    columns = zip(*parts, strict=True)  # one for each field of Demonstrations
    return Demonstrations._make(np.concatenate(arrays) for arrays in columns)
