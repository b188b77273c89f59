"""Trees inside the engine's loop, and in bundles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from rlkv_agents.bundle import METADATA_FILE, WEIGHTS_FILE, load_bundle, save_bundle
from rlkv_agents.demonstrations import Teacher, demonstrate
from rlkv_agents.evaluate import run_policy
from rlkv_agents.house_rule import House
from rlkv_agents.inference import greedy_verbs
from rlkv_agents.policy import AgentPolicy, range_of, to_tensors
from rlkv_agents.rules import make_rule
from rlkv_engine.errors import InputError
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.state import NEW, PRESERVE
from rlkv_engine.tree import LEAF, NO_TREE, NUM_ANSWERS, NUM_POINTS, Trees, no_trees
from tests.agents.small_scenario import random_network, small_scenario
from tests.agents.small_trees import INDEX, RULE_SAYS, one_split

SCENARIO = small_scenario(rate_per_s=2.0)
HOUSE = House(guard_pauses=0.0)
#: The first is looked at thinly.
TRACES = [SCENARIO.trace(seed, "test") for seed in range(3)]


def random_trees(seed: int, depth: int = 4) -> Trees:
    """Full trees for every decision point, with random questions and rankings."""
    rng = np.random.default_rng(seed)
    num_nodes = 2 ** (depth + 1) - 1
    inner = np.arange(num_nodes) < 2**depth - 1
    parts = []
    for point in range(NUM_POINTS):
        first = point * num_nodes
        child = first + 2 * np.arange(num_nodes) + 1
        parts.append(
            (
                np.where(inner, rng.integers(0, NUM_FEATURES, num_nodes), LEAF),
                np.where(inner, rng.random(num_nodes).astype(np.float32), 0.0),
                np.where(inner, child, LEAF),
                np.where(inner, child + 1, LEAF),
                np.array([rng.permutation(NUM_ANSWERS) for _ in range(num_nodes)]),
            )
        )
    arrays = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Trees._make([*arrays, num_nodes * np.arange(NUM_POINTS)])


def tree_policy(trees: Trees) -> AgentPolicy:
    return AgentPolicy("trees", HOUSE, trees=trees)


@pytest.mark.parametrize("seed", range(3))
def test_numpy_answers_as_the_compiled_loop(seed: int) -> None:
    for policy in (
        tree_policy(random_trees(seed)),
        replace(random_network(seed), trees=one_split()),
    ):
        shown = demonstrate(
            Teacher(SCENARIO, policy), policy, TRACES, obey_teacher=True,
            num_per_trace=8000, rng=np.random.default_rng(0),
        )  # fmt: skip
        assert len(shown.verb) > 20
        verbs = greedy_verbs(policy, shown.observation, shown.mask[:, 1])
        np.testing.assert_array_equal(verbs, shown.verb)


def test_trees_that_say_as_the_rule_are_the_rule() -> None:
    split = one_split()
    as_rule = split._replace(ranking=np.array([RULE_SAYS] * 3))
    for seed in range(2):
        trace = SCENARIO.trace(seed, "test")
        rule = run_policy(SCENARIO, AgentPolicy("rule", HOUSE), trace)
        assert run_policy(SCENARIO, tree_policy(as_rule), trace) == rule
        assert run_policy(SCENARIO, tree_policy(no_trees()), trace) == rule
        assert run_policy(SCENARIO, tree_policy(split), trace) != rule


def test_a_tree_answers_at_its_own_decision_point_alone() -> None:
    policy = tree_policy(one_split())
    shown = demonstrate(
        Teacher(SCENARIO, policy), policy, TRACES, obey_teacher=True,
        num_per_trace=8000, rng=np.random.default_rng(0),
    )  # fmt: skip
    rule = shown.observation[:, -3:].argmax(axis=1)
    early = (shown.point == NEW) & (shown.observation[:, INDEX["remaining_pauses"]] <= 0.5)
    assert early.any() and (shown.verb[early] == PRESERVE).all()
    np.testing.assert_array_equal(shown.verb[~early], rule[~early])


def test_a_rule_that_swaps_at_once_keeps_its_swap() -> None:
    eager = make_rule("swap")
    said = random_trees(0)._replace(ranking=np.tile([1, 3, 0, 2], (len(random_trees(0).left), 1)))
    trace = SCENARIO.trace(0, "test")
    ours = run_policy(SCENARIO, AgentPolicy("trees", eager, trees=said), trace)
    assert ours == run_policy(SCENARIO, AgentPolicy("swap", eager), trace)


def test_a_bundle_of_trees_is_read_back(tmp_path: Path) -> None:
    trained = range_of(np.full(NUM_FEATURES, -2.0), np.full(NUM_FEATURES, 2.0))
    policy = replace(tree_policy(random_trees(1)), trained_range=trained)
    save_bundle(tmp_path, policy, {"trained_on": {"seed": 1}})
    loaded = load_bundle(tmp_path).policy
    assert loaded.weights is None and loaded.trees is not None
    for field, ours in policy.trees._asdict().items():  # type: ignore[union-attr]
        np.testing.assert_array_equal(getattr(loaded.trees, field), ours)
    trace = SCENARIO.trace(0, "test")
    assert run_policy(SCENARIO, loaded, trace) == run_policy(SCENARIO, policy, trace)
    expected = to_tensors(policy)
    assert set(to_tensors(loaded)) == set(expected) and "weight_1" not in expected


Damage = Callable[[dict[str, Any]], None]


def _set(tensor: str, place: Any, value: Any) -> Damage:
    def damage(tensors: dict[str, Any]) -> None:
        tensors[tensor][place] = value

    return damage


def _replace(tensor: str, change: Callable[[Any], Any]) -> Damage:
    def damage(tensors: dict[str, Any]) -> None:
        tensors[tensor] = np.ascontiguousarray(change(tensors[tensor]))

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_set("tree_left", 0, 0), r"tree_left\[0\] is 0: must be a node after 0, before 3"),
        (_set("tree_right", 0, 3), r"tree_right\[0\] is 3: must be a node after 0, before 3"),
        (_set("tree_right", 0, -1), r"tree_right\[0\] is -1: must be a node after 0"),
        (_set("tree_right", 0, 1), "tree node 1 has 2 parents, must have one"),
        (_set("tree_root", 2, 0), "tree node 0 has 2 parents, must have one"),
        (_set("tree_root", 2, 3), r"tree_root\[2\] is 3: must be -1 or one of 3 nodes"),
        (_set("tree_root", 2, -2), r"tree_root\[2\] is -2"),
        (_set("tree_root", 1, -1), "tree node 0 has 0 parents"),
        (_set("tree_feature", 0, NUM_FEATURES), rf"tree_feature\[0\] is {NUM_FEATURES}: must be"),
        (_set("tree_feature", 1, -2), r"tree_feature\[1\] is -2: must be -1 or one of"),
        (_set("tree_threshold", 0, np.nan), r"tree_threshold\[0\] is nan: must be finite"),
        (_set("tree_threshold", 0, np.inf), r"tree_threshold\[0\] is inf: must be finite"),
        (_set("tree_ranking", (1, 0), 2), r"tree_ranking\[1\] is .*: must hold each of 0 to 3"),
        (_set("tree_ranking", (2, 3), 9), r"tree_ranking\[2\] is .*: must hold each of 0 to 3"),
        (lambda tensors: tensors.pop("tree_left"), "tensor tree_left is missing"),
        (lambda tensors: tensors.pop("range_low"), "tensor range_low is missing"),
        (_replace("tree_left", lambda x: x[:2]), r"tree_left has shape \(2,\), expected \(3,\)"),
        (_replace("tree_ranking", lambda x: x[:, :3]), r"tree_ranking has shape \(3, 3\)"),
        (_replace("tree_root", lambda x: x[:3]), r"tree_root has shape \(3,\), expected \(4,\)"),
        (_replace("tree_feature", lambda x: x.reshape(1, 3)), r"tree_feature has shape \(1, 3\)"),
        (_replace("tree_feature", lambda x: x.astype(np.float32)), "is float32, not int32"),
        (_replace("tree_threshold", lambda x: x.astype(np.float64)), "is float64, not float32"),
        (lambda tensors: tensors.update(bias_1=np.zeros(3, np.float32)), "weight_1 is missing"),
    ],
)  # fmt: skip
def test_damaged_trees_are_named(tmp_path: Path, damage: Damage, reason: str) -> None:
    save_bundle(tmp_path, tree_policy(one_split()), {})
    tensors = {k: v.copy() for k, v in load((tmp_path / WEIGHTS_FILE).read_bytes()).items()}
    damage(tensors)
    payload = save(tensors)
    document = json.loads((tmp_path / METADATA_FILE).read_text())
    document["weights_sha256"] = hashlib.sha256(payload).hexdigest()
    (tmp_path / WEIGHTS_FILE).write_bytes(payload)
    (tmp_path / METADATA_FILE).write_text(json.dumps(document))
    with pytest.raises(InputError, match=reason) as caught:
        load_bundle(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / WEIGHTS_FILE}: ")
    assert "\n" not in str(caught.value)


def test_root_of_no_tree_is_what_no_trees_have() -> None:
    assert list(no_trees().root) == [NO_TREE] * NUM_POINTS
