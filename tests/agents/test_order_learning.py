"""An order of victims is learnt from whole runs, and kept where it validates better."""

from __future__ import annotations

import numpy as np

from rlkv_agents import order_learning
from rlkv_agents.house_rule import House
from rlkv_agents.order_learning import OrderSettings, learn_order
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.tune import caution_score, validation_latency_s, validation_traces
from rlkv_envs.scenario import load_scenario
from tests.agents.small_scenario import small_scenario

SMALL = small_scenario(2.0, 40)
HOUSE = AgentPolicy("house", House())
QUICK = OrderSettings(generations=4, num_pairs=2, traces_per_generation=1, validate_every=2)


def test_the_same_seed_gives_the_same_order_and_another_one_another() -> None:
    traces = validation_traces(SMALL, 2)
    settings = OrderSettings(generations=2, num_pairs=2, traces_per_generation=1)
    first, again, other = (learn_order(SMALL, HOUSE, traces, s, settings) for s in (0, 0, 1))
    assert first.rule == again.rule and first.score == again.score
    assert [point.score for point in first.curve] != [point.score for point in other.curve]


def test_what_is_kept_is_what_validates_best() -> None:
    traces = validation_traces(SMALL, 4)
    rule = House(guard_pauses=0.5)
    found = learn_order(SMALL, AgentPolicy("r", rule), traces, 0, QUICK)
    assert [point.num_decisions > 0 for point in found.curve] == [True, True]
    assert found.score == min(0.0, *(point.score for point in found.curve))
    assert found.rule.guard_pauses == rule.guard_pauses
    base, latency = (
        validation_latency_s(SMALL, AgentPolicy("r", each), traces) for each in (rule, found.rule)
    )
    assert caution_score(latency, base) == found.score


def test_where_nothing_is_better_the_rule_stays_as_it_is(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(order_learning, "caution_score", lambda latency, base: 0.01)
    traces = validation_traces(SMALL, 1)
    found = learn_order(SMALL, HOUSE, traces, 0, QUICK)
    assert found.rule == House() and found.score == 0.0
    nothing = learn_order(SMALL, HOUSE, traces, 0, OrderSettings(generations=0))
    assert nothing.rule == House() and nothing.curve == []


def test_it_finds_what_is_there_on_coding_agents() -> None:
    scenario = load_scenario("coding")
    rule = House(slack_ratio=0.012, guard_pauses=0.0, swap_ratio=8.0)
    settings = OrderSettings(generations=8, num_pairs=6, traces_per_generation=2)
    policy = AgentPolicy("r", rule)
    found = learn_order(scenario, policy, validation_traces(scenario, 8), 0, settings)
    test = [scenario.trace(seed, "test") for seed in range(8)]
    before, after = (
        validation_latency_s(scenario, AgentPolicy("r", each), test) for each in (rule, found.rule)
    )
    assert np.log(after / before).mean() < -0.01
    # The host's copies go first.
    assert found.rule.order_dirty < 0.0
