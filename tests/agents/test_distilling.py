"""Trees find what a network does, and nothing where it does what its rule does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn")

from rlkv_agents.demonstrations import Demonstrations, Teacher
from rlkv_agents.departures import REQUESTERS, departures, watch_policy
from rlkv_agents.distilling import (
    Distilled,
    DistilSettings,
    distil,
    distil_one,
    importance,
    num_steps,
)
from rlkv_agents.evaluate import run_policy
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.tree_fitting import as_float32, fit_trees
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.state import DISCARD, NEW, PRESERVE, RESUME, SWAP
from rlkv_engine.tree import AS_RULE, LEAF, NO_TREE
from tests.agents.small_scenario import small_scenario
from tests.agents.small_trees import INDEX, waits_for

SCENARIO = small_scenario(rate_per_s=2.0)
TEACHER = waits_for(0.4, House(guard_pauses=0.0, write_through=1.0))
SETTINGS = DistilSettings(depths=(2,), num_passes=2, traces_per_pass=2, num_per_trace=2000)


def test_a_threshold_is_found_again() -> None:
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    passes = distil(Teacher(SCENARIO, TEACHER), 0, SETTINGS, count)[2]
    assert (len(passes), steps) == (SETTINGS.num_passes, SETTINGS.num_passes)
    student = passes[-1]
    trees = student.trees
    assert trees is not None and student.weights is None
    assert [trees.root[point] == NO_TREE for point in range(4)] == [True, False, True, True]
    root = trees.root[NEW]
    assert trees.feature[root] == INDEX["remaining_pauses"]
    assert 0.35 < trees.threshold[root] < 0.5  # decisions lie that far apart
    assert trees.ranking[trees.left[root], 0] == PRESERVE
    assert trees.ranking[trees.right[root], 0] == AS_RULE
    for seed in range(3):
        trace = SCENARIO.trace(seed, "test")
        network = run_policy(SCENARIO, TEACHER, trace)
        rule = run_policy(SCENARIO, AgentPolicy("rule", TEACHER.rule), trace)
        assert run_policy(SCENARIO, student, trace).mean_latency_s == pytest.approx(
            network.mean_latency_s, rel=0.05
        )
        assert network != rule


def test_one_seed_one_set_of_trees() -> None:
    first, second = (distil(Teacher(SCENARIO, TEACHER), 4, SETTINGS)[2][-1] for _ in range(2))
    assert first.trees is not None and second.trees is not None
    for ours, theirs in zip(first.trees, second.trees, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_rule_needs_no_trees() -> None:
    rule = AgentPolicy("rule", House())
    student = distil(Teacher(SCENARIO, rule), 0, SETTINGS)[2][-1]
    assert student.trees is not None and (student.trees.root == NO_TREE).all()


def demos(
    verb: list[int], x: list[float], rule: int = DISCARD, point: int = RESUME
) -> Demonstrations:
    num = len(verb)
    observation = np.zeros((num, NUM_FEATURES), np.float32)
    observation[:, INDEX["free"]] = x
    observation[:, point] = 1.0
    observation[:, NUM_FEATURES - 3 + rule] = 1.0
    return Demonstrations(
        observation, np.ones((num, 3), np.bool_), np.array(verb), np.full(num, point), np.ones(num)
    )


def test_decisions_of_no_weight_do_not_shape_a_tree() -> None:
    x = [i / 100 for i in range(100)]
    shown = demos([SWAP if value < 0.5 else DISCARD for value in x], x)
    trees = fit_trees(shown, np.ones(100), 2)
    assert trees.feature.tolist() == [INDEX["free"], LEAF, LEAF]
    assert trees.threshold[0] == pytest.approx(0.495)
    assert trees.ranking[1:, 0].tolist() == [SWAP, AS_RULE]
    # Where only the lower half matters, there is nothing to ask.
    weight = np.where(np.array(x) < 0.5, 1.0, 0.0)
    trees = fit_trees(shown, weight, 2)
    assert trees.feature.tolist() == [LEAF] and trees.ranking[0, 0] == SWAP


def test_a_split_that_wins_next_to_nothing_goes() -> None:
    x = [i / 1000 for i in range(1000)]
    shown = demos([SWAP if value < 0.5 or value >= 0.999 else DISCARD for value in x], x)
    assert len(fit_trees(shown, np.ones(1000), 4).feature) == 3


def test_without_host_room_a_swap_falls_to_what_the_teacher_did_there() -> None:
    x = [0.0] * 60
    shown = demos([SWAP] * 40 + [PRESERVE] * 20, x)
    shown.mask[40:, SWAP] = False
    trees = fit_trees(shown, np.ones(60), 2)
    assert trees.ranking[0, :2].tolist() == [SWAP, PRESERVE]


def test_a_threshold_as_float32_keeps_every_float32_on_its_side() -> None:
    rng = np.random.default_rng(0)
    low = rng.random(1000).astype(np.float32)
    high = np.nextafter(low, np.float32(2))
    middle = low.astype(np.float64) / 2 + high.astype(np.float64) / 2
    rounded = np.array([as_float32(float(value)) for value in middle])
    assert ((low <= rounded) & (high > rounded)).all()


def test_importance_is_the_margin_and_nothing_where_the_teacher_knows_nothing() -> None:
    weights = [np.zeros((1, NUM_FEATURES)), np.zeros(1), np.zeros((1, 1)), np.zeros(1),
               np.zeros((3, 1)), np.array([0.0, 2.0, 1.9])]  # fmt: skip
    low, high = np.full(NUM_FEATURES, -np.inf), np.full(NUM_FEATURES, np.inf)
    high[INDEX["free"]] = 0.5
    teacher = AgentPolicy("t", House(), weights, 0.0, (low, high))
    shown = demos([SWAP, DISCARD, DISCARD], [0.1, 0.1, 0.9])
    shown.mask[1, SWAP] = False
    found = importance(teacher, shown)
    assert found[2] == 0.0 and 0.0 < found[0] < 0.2 * found[1]


def test_the_depth_that_validates_best_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlkv_agents import distilling

    monkeypatch.setattr(distilling, "validation_traces", lambda s: [s.trace(0, "validation")])
    settings, steps = replace(SETTINGS, depths=(1, 2)), 0

    def count() -> None:
        nonlocal steps
        steps += 1

    found = distil_one(SCENARIO, TEACHER, 0, count, settings)
    assert steps == num_steps(settings)
    assert set(found.validation) == {"teacher", "depth 1", "depth 2"}
    # One split is all there is: the deeper one is no better.
    assert found.depth == 1 and found.policy is found.students[1]
    worse = Distilled(found.students, 1, {"depth 1": {"ratio": 1.1, "score": 0.1}})
    assert not worse.is_safe


def test_the_pass_that_validates_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlkv_agents import distilling

    first, second, third = (replace(TEACHER, name=f"pass {number}") for number in range(3))
    said = {"rule": 1.0, "learned": 0.5, "pass 0": 0.7, "pass 1": 0.6, "pass 2": 0.9}
    monkeypatch.setattr(distilling, "distil", lambda *args: {2: [first, second, third]})
    monkeypatch.setattr(
        distilling,
        "validation_latency_s",
        lambda scenario, policy, traces: np.full(2, said[policy.name]),
    )
    found = distil_one(SCENARIO, replace(TEACHER, name="learned"), 0, settings=SETTINGS)
    assert found.policy is second
    assert found.validation["depth 2"]["ratio"] == pytest.approx(0.6)


def test_shares_of_departures() -> None:
    shown = watch_policy(SCENARIO, TEACHER, range(4))
    document = departures(SCENARIO, shown)
    asked = document["requesters"]
    assert set(asked) <= set(REQUESTERS)
    assert sum(part["decisions"] for part in asked.values()) == pytest.approx(1.0)
    assert asked["NEW"]["departed"] > 0.0 and asked["RESUME"]["departed"] == 0.0
    assert {verb for _, verb, _ in asked["NEW"]["directions"]} == {PRESERVE}
    for part in asked.values():
        assert sum(d[2] for d in part["directions"]) == pytest.approx(part["departed"])
    whole = sum(part["decisions"] * part["departed"] for part in asked.values())
    assert document["departed"] == pytest.approx(whole)
    for quantity in document["quantities"].values():
        for who, bins in quantity["requesters"].items():
            assert len(bins) == len(quantity["edges"]) - 1
            assert sum(b["decisions"] for b in bins) == pytest.approx(1.0)
            there = sum(b["decisions"] * b["departed"] for b in bins)
            assert there == pytest.approx(asked[who]["departed"])
            for b in bins:
                assert sum(b["verbs"]) == pytest.approx(b["departed"])
    # It departs below its threshold of 0.4 / 0.6 mean pauses only.
    remaining = document["quantities"]["remaining"]
    for low, part in zip(remaining["edges"], remaining["requesters"]["NEW"], strict=False):
        assert part["departed"] == 0.0 or low < 0.4 / 0.6


def test_weights_say_how_many_decisions_there_are() -> None:
    policy = AgentPolicy("rule", House())
    few = watch_policy(SCENARIO, policy, range(3), num_per_trace=200)
    many = watch_policy(SCENARIO, policy, range(3))
    assert len(few.verb) < len(many.verb)
    for point in range(4):
        ours, theirs = (shown.weight[shown.point == point].sum() for shown in (few, many))
        assert ours == pytest.approx(theirs, rel=0.02)
