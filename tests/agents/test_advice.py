"""Advice: the candidate with the least regret on machines that are like this one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlkv_agents.advice import Advice, candidates, describe
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from tests.agents.small_scenario import random_weights, small_scenario

SMALL = small_scenario(num_host_blocks=20)
LARGE = small_scenario(num_host_blocks=2000)
NUM = len(candidates())


def advice(best_of_each: list[int]) -> Advice:
    regret = np.full((2, NUM), 0.5)
    regret[np.arange(2), best_of_each] = 0.0
    machines = np.stack([describe(s.profile, s.table) for s in (SMALL, LARGE)])
    return replace(
        Advice.of_constants(candidates(), machines, regret), departs=np.array([0.0, 1.0])
    )


def test_a_machine_that_is_known_gets_what_was_best_there() -> None:
    known = advice([3, 17])
    assert known.rule_for(SMALL.profile, SMALL.table) == candidates()[3]
    assert known.rule_for(LARGE.profile, LARGE.table) == candidates()[17]
    assert known.distance(SMALL.profile, SMALL.table) == pytest.approx(0.0)


def test_a_machine_in_between_gets_what_is_bearable_on_both() -> None:
    known = advice([3, 17])
    known.regret[:, 5] = 0.1
    at = describe(SMALL.profile, SMALL.table)[0], describe(LARGE.profile, LARGE.table)[0]
    midway = 2.0 ** ((at[0] + at[1]) / 2) - 0.02  # host over device, see ``describe``
    num_host_blocks = round(midway * SMALL.profile.num_device_blocks)
    between = small_scenario(num_host_blocks=num_host_blocks)
    assert known.rule_for(between.profile, between.table) == candidates()[5]
    assert known.distance(between.profile, between.table) > 1.0


def test_far_from_all_of_them_the_nearest_counts() -> None:
    known = advice([3, 17])
    far = small_scenario(num_host_blocks=60_000)
    assert known.rule_for(far.profile, far.table) == candidates()[17]
    assert known.without(1).rule_for(far.profile, far.table) == candidates()[3]


def test_the_order_is_advised_apart_from_the_constants() -> None:
    order = np.linspace(1.0, 2.0, NUM_ORDER_TERMS)
    known = replace(
        advice([3, 17]),
        orders=np.stack([np.zeros(NUM_ORDER_TERMS), order]),
        # Right on the small machine, and worse on the large one than the plain order.
        order_regret=np.array([[0.0, -0.05], [0.0, 0.02]]),
    )
    assert known.rule_for(SMALL.profile, SMALL.table) == candidates()[3].with_order(order)
    assert known.rule_for(LARGE.profile, LARGE.table) == candidates()[17]
    far = small_scenario(num_host_blocks=60_000)
    assert known.without(1).rule_for(far.profile, far.table).order.any()


def test_a_policy_binds_its_rule_to_the_machine() -> None:
    policy = AgentPolicy("advised", House(), advice=advice([3, 17]))
    assert (policy.on(SMALL).rule, policy.on(LARGE).rule) == (candidates()[3], candidates()[17])
    assert AgentPolicy("plain", House()).on(SMALL).rule == House()


def test_the_network_is_silent_where_nobody_left_the_rule() -> None:
    policy = AgentPolicy("advised", House(), random_weights(), 0.5, advice=advice([3, 17]))
    assert policy.on(SMALL).weights is None and policy.on(LARGE).weights is not None


def test_a_machine_without_host_memory_can_be_described() -> None:
    bare = small_scenario(num_host_blocks=0)
    assert np.isfinite(describe(bare.profile, bare.table)).all()
