"""Plans are replayed to the bit, are legal, and never lose to the policy they start from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlkv_agents import plan as plan_module
from rlkv_agents import planner, policy_stack
from rlkv_agents.evaluate import run_policy
from rlkv_agents.house_rule import Clairvoyant, House
from rlkv_agents.plan import Plan, plan_of, replay
from rlkv_agents.plan_differences import POINTS, differences
from rlkv_agents.planner import BASE, Search, best_plan, run_search
from rlkv_agents.policy import AgentPolicy
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.errors import RlkvError
from rlkv_envs.metrics import measure
from tests.agents.small_scenario import random_network, small_scenario

SCENARIO = small_scenario(rate_per_s=2.0, num_sessions=40, num_host_blocks=100)
TRACE = SCENARIO.trace(0, "test")
HOUSE = AgentPolicy("house", House(guard_pauses=1.0))
SEES = AgentPolicy("clairvoyant", Clairvoyant())
NETWORK = replace(random_network(), rule=House(guard_pauses=1.0))
SEGMENTS = Search("segments", 4.0, 0.25, 12, 0.1)
ROLLOUT = Search("rollout", 2.0)
#: Priced by what the whole rest of the trace costs.
TO_THE_END = Search("to the end", 1e9, 1.0, 12, 0.1)


def by_hand(plan: Plan) -> float:
    """Mean latency when an engine of one's own is given the answers, all of which are legal."""
    table = SCENARIO.table
    engine = Engine(SCENARIO.profile, TRACE, plan.base.rule.params(table), table=table)
    for verb in plan.answers:
        decision = engine.next_decision()
        assert decision is not None
        assert verb in (S.PRESERVE, S.DISCARD) or (verb == S.SWAP and decision.swap_legal)
        engine.answer(int(verb))
    assert engine.next_decision() is None
    return measure(engine.state).mean_latency_s


@pytest.mark.slow
@pytest.mark.parametrize("base", [HOUSE, SEES, NETWORK], ids=lambda base: str(base.name))
@pytest.mark.parametrize("search", [SEGMENTS, ROLLOUT], ids=lambda search: str(search.name))
def test_a_replayed_plan_has_the_latency_that_was_claimed(
    base: AgentPolicy, search: Search
) -> None:
    found = best_plan(SCENARIO, base, TRACE, [search], seed=0)
    assert {each.search for each in found} == {BASE, search.name}
    for each in found:
        assert replay(SCENARIO, each.plan, TRACE).mean_latency_s == each.latency_s
        assert by_hand(each.plan) == each.latency_s
    own = next(each for each in found if each.search == BASE)
    assert own.latency_s == run_policy(SCENARIO, base, TRACE).mean_latency_s
    assert found[0].latency_s < own.latency_s
    assert found[0].num_branches > len(found[0].plan.answers) / 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_what_is_priced_to_the_end_of_the_trace_never_loses(seed: int) -> None:
    trace = SCENARIO.trace(seed, "test")
    base_s = run_policy(SCENARIO, HOUSE, trace).mean_latency_s
    for search in (TO_THE_END, Search("rollout to the end", 1e9)):
        plan, _ = run_search(SCENARIO, HOUSE, trace, search, seed)
        assert replay(SCENARIO, plan, trace).mean_latency_s < base_s


@pytest.mark.slow
def test_a_rollout_takes_the_cheapest_verb() -> None:
    horizon_s = ROLLOUT.horizon_pauses * SCENARIO.table.mean_pause_s
    plan, num_branches = run_search(SCENARIO, HOUSE, TRACE, ROLLOUT, seed=0)
    table = SCENARIO.table
    engine = Engine(SCENARIO.profile, TRACE, HOUSE.rule.params(table), table=table)
    tried = 0
    for verb in plan.answers:
        decision = engine.next_decision()
        assert decision is not None
        costs = {}
        for other in (S.PRESERVE, S.SWAP, S.DISCARD):
            if other == S.SWAP and not decision.swap_legal:
                continue
            fork = engine.fork()
            until_s = fork.now_s + horizon_s
            fork.answer(int(other))
            fork.run(HOUSE.compiled(), until_s)
            late_s = max(0.0, fork.now_s - until_s)
            costs[int(other)] = fork.state.f[S.COST] - fork.state.f[S.ACTIVE_WEIGHT] * late_s
            tried += 1
        assert costs[int(verb)] == pytest.approx(min(costs.values()), rel=1e-12)
        engine.answer(int(verb))
    assert tried == num_branches


@pytest.mark.slow
def test_a_seed_gives_one_plan() -> None:
    first, again, other = (
        run_search(SCENARIO, HOUSE, TRACE, SEGMENTS, seed)[0].answers for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


@pytest.mark.slow
@pytest.mark.parametrize("search", [SEGMENTS, ROLLOUT], ids=lambda search: str(search.name))
@pytest.mark.parametrize("point", range(3), ids=POINTS[:3])
def test_where_nothing_is_searched_the_base_answers(search: Search, point: int) -> None:
    points = np.arange(4) == point
    plan, _ = run_search(SCENARIO, HOUSE, TRACE, search, 0, points)
    table = differences(SCENARIO, plan, TRACE, HOUSE)
    changed = {row["point"] for row in table if row["rule"] != row["plan"]}
    assert changed == {POINTS[point]}


@pytest.mark.slow
def test_a_search_may_leave_calls_to_the_base() -> None:
    search = replace(SEGMENTS, searches_calls=False)
    plan, _ = run_search(SCENARIO, HOUSE, TRACE, search, 0)
    table = differences(SCENARIO, plan, TRACE, HOUSE)
    changed = {row["point"] for row in table if row["rule"] != row["plan"]}
    assert "call" not in changed and {"new", "resume"} <= changed
    only_calls = np.arange(4) == S.CALL
    found = best_plan(SCENARIO, HOUSE, TRACE, [search, SEGMENTS], 0, only_calls)
    assert {each.search for each in found} == {BASE, SEGMENTS.name}


@pytest.mark.slow
def test_rooms_that_are_too_small_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    crowded = SCENARIO.at_rate(20.0)
    trace = crowded.trace(0, "test")

    def plans() -> list[Plan]:
        searches = (Search("segments", 1.0, 1.0, 4, 0.1), Search("rollout", 0.2))
        return [run_search(crowded, HOUSE, trace, search, 0)[0] for search in searches]

    roomy = plans()
    latency_s = [replay(crowded, plan, trace).mean_latency_s for plan in roomy]
    monkeypatch.setattr(policy_stack, "_NUM_SLOTS", 1)
    for module in (plan_module, planner):
        monkeypatch.setattr(module, "_ROOM", 4)
    tight = plans()
    for plan, other, claimed in zip(tight, roomy, latency_s, strict=True):
        np.testing.assert_array_equal(plan.answers, other.answers)
        assert replay(crowded, plan, trace).mean_latency_s == claimed
        table = differences(crowded, plan, trace, HOUSE)
        assert sum(row["count"] for row in table) == len(plan.answers)


def test_answers_to_another_trace() -> None:
    plan = plan_of(SCENARIO, HOUSE, TRACE)
    with pytest.raises(RlkvError, match="does not fit trace"):
        replay(SCENARIO, replace(plan, answers=plan.answers[:-1]), TRACE)
    never = Plan(HOUSE, np.full_like(plan.answers, S.SWAP_NOW))
    with pytest.raises(RlkvError, match=f"a plan of {len(never.answers)} answers"):
        replay(SCENARIO, never, TRACE)


def test_a_rule_does_not_differ_from_itself() -> None:
    plan = plan_of(SCENARIO, HOUSE, TRACE)
    table = differences(SCENARIO, plan, TRACE, HOUSE)
    assert sum(row["count"] for row in table) == len(plan.answers)
    assert all(row["rule"] == row["plan"] and row["other_victim"] == 0 for row in table)
    assert {row["point"] for row in table} >= {"call", "new", "resume"}
    for row in table:
        assert 0.0 <= row["remaining_pauses"] <= 4.0 * row["count"]
        assert 0.0 < row["paused_ratio"] <= row["count"]


def test_who_knows_the_pauses_asks_about_others() -> None:
    table = differences(SCENARIO, plan_of(SCENARIO, SEES, TRACE), TRACE, HOUSE)
    asked = {row["point"]: row["other_victim"] for row in table}
    assert asked["call"] == 0 and sum(asked.values()) > 0
    # What is asked at a decision is the rule's verb: an engine of one's own says the same.
    params = HOUSE.rule.params(SCENARIO.table)
    engine = Engine(SCENARIO.profile, TRACE, params, table=SCENARIO.table)
    verbs = dict.fromkeys(range(4), 0)
    while (decision := engine.next_decision()) is not None:
        legal = decision.rule_verb != S.SWAP or decision.swap_legal
        kept = S.PRESERVE if decision.point == S.CALL else S.DISCARD
        verb = int(decision.rule_verb if legal else kept)
        verbs[verb] += 1
        engine.answer(verb)
    plan = plan_of(SCENARIO, HOUSE, TRACE)
    assert np.bincount(plan.answers, minlength=4).tolist() == list(verbs.values())
