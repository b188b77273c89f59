"""Searches for a good plan of one trace, with a policy as the base of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.lookahead import MAIN, NO_ROOM, NUM_ENGINES, roll_out, search_segment
from rlkv_agents.plan import EVERYWHERE, Plan, plan_of, replay
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.policy_stack import policy_stack
from rlkv_engine import state as S
from rlkv_engine.layout import grow_slots
from rlkv_engine.loop import DONE, FULL
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

#: Random numbers of a search; a longer one uses them again.
_NUM_UNIFORMS = 1 << 16
#: Answers of a segment, or of a whole rollout, at first; it gets longer as it must.
_ROOM = 1 << 14


@dataclass(frozen=True, slots=True)
class Search:
    """A search of lookahead.py; times are in mean pauses.

    With ``segment_pauses`` of 0 every decision is rolled out; otherwise each stretch of so many
    mean pauses gets ``num_variants`` variants, which depart from the base with ``ratio``. Most
    decisions are CALLs and matter least: a search that leaves them to the base has more tries left
    for the others.
    """

    name: str
    horizon_pauses: float
    segment_pauses: float = 0.0
    num_variants: int = 1
    ratio: float = 0.0
    searches_calls: bool = True

    def points(self, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Those of the allowed decision points that are searched, shape ``[4]``."""
        points = allowed.copy()
        points[S.CALL] &= self.searches_calls
        return points


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a search came to: its plan, measured by a replay, and the branches it ran."""

    search: str
    plan: Plan
    latency_s: float  #: mean normalized latency of the replay, s/token
    num_branches: int


#: The name of a base's own answers among what was found.
BASE = "base"


def best_plan(
    scenario: Scenario,
    base: AgentPolicy,
    trace: Trace,
    searches: Sequence[Search],
    seed: int,
    points: NDArray[np.bool_] = EVERYWHERE,
) -> list[Found]:
    """The plans of all searches and the base's own, the cheapest first.

    Args:
        scenario: the machine, and the table of pauses that rules know.
        base: answers after every departure from it, and orders the victims.
        trace: the true future.
        searches: what to try.
        seed: of the searches that try at random.
        points: decision points that are searched, ``[4]``: CALL, NEW, RESUME, GROW.
    """
    own = plan_of(scenario, base, trace)
    found = [Found(BASE, own, replay(scenario, own, trace).mean_latency_s, 0)]
    for search in searches:
        if not search.points(points).any():
            continue
        plan, num_branches = run_search(scenario, base, trace, search, seed, points)
        latency_s = replay(scenario, plan, trace).mean_latency_s
        found.append(Found(search.name, plan, latency_s, num_branches))
    return sorted(found, key=lambda each: each.latency_s)


def run_search(
    scenario: Scenario,
    base: AgentPolicy,
    trace: Trace,
    search: Search,
    seed: int,
    points: NDArray[np.bool_] = EVERYWHERE,
) -> tuple[Plan, int]:
    """The plan of one search, and the branches it ran; it may lose to the base."""
    points = search.points(points)
    if search.segment_pauses > 0.0:
        return _by_segments(scenario, base, trace, search, seed, points)
    horizon_s = search.horizon_pauses * scenario.table.mean_pause_s
    stack, policy = policy_stack(scenario, base, [trace], num_engines=NUM_ENGINES), base.compiled()
    done, answers = np.zeros(2, np.int64), np.zeros(_ROOM, np.uint8)
    while (state := roll_out(stack, policy, points, horizon_s, done, answers)) != DONE:
        if state == FULL:
            stack = grow_slots(stack)
        else:
            answers = np.concatenate([answers, np.zeros_like(answers)])
    return Plan(base, answers[: done[0]].copy()), int(done[1])


def _by_segments(
    scenario: Scenario,
    base: AgentPolicy,
    trace: Trace,
    search: Search,
    seed: int,
    points: NDArray[np.bool_],
) -> tuple[Plan, int]:
    pause_s = scenario.table.mean_pause_s
    stack, policy = policy_stack(scenario, base, [trace], num_engines=NUM_ENGINES), base.compiled()
    uniforms = np.random.default_rng(seed).random(_NUM_UNIFORMS)
    done = np.zeros(5, np.int64)
    best, tried = np.zeros(_ROOM, np.uint8), np.zeros(_ROOM, np.uint8)
    parts: list[NDArray[np.uint8]] = []
    state, until_s = FULL, 0.0
    while state != DONE:
        until_s = max(until_s, float(stack.f[MAIN, S.NOW])) + search.segment_pauses * pause_s
        while True:
            state = search_segment(
                stack, policy, points, until_s, search.horizon_pauses * pause_s,
                search.num_variants, search.ratio, uniforms, done, best, tried,
            )  # fmt: skip
            if state == FULL:
                stack = grow_slots(stack)
            elif state == NO_ROOM:
                best, tried = np.zeros(2 * len(best), np.uint8), np.zeros(2 * len(best), np.uint8)
            else:
                break
        parts.append(best[: done[0]].copy())
    return Plan(base, np.concatenate(parts)), int(done[4])
