"""A compiled tree answers as scikit-learn's does, and only what is legal and was learnt."""

from __future__ import annotations

import numpy as np
import pytest

from rlkv_engine.loop import make_policy
from rlkv_engine.mlp import tree_verb
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.tree import (
    AS_RULE,
    LEAF,
    NO_TREE,
    NUM_ANSWERS,
    NUM_POINTS,
    Trees,
    no_trees,
    tree_answer,
)

sklearn_tree = pytest.importorskip("sklearn.tree")


def from_sklearn(fitted: object) -> Trees:
    """The tree as it is, thresholds unrounded, for all decision points."""
    tree = fitted.tree_  # type: ignore[attr-defined]
    num_nodes = len(tree.feature)
    best = fitted.classes_[tree.value[:, 0, :].argmax(axis=1)]  # type: ignore[attr-defined]
    ranking = np.array([[b, *(a for a in range(NUM_ANSWERS) if a != b)] for b in best], np.int64)
    return Trees(
        np.where(tree.children_left < 0, LEAF, tree.feature).astype(np.int64),
        tree.threshold.astype(np.float64),
        tree.children_left.astype(np.int64),
        tree.children_right.astype(np.int64),
        ranking.reshape(num_nodes, NUM_ANSWERS),
        np.zeros(NUM_POINTS, np.int64),
    )


@pytest.mark.parametrize("seed", range(8))
def test_it_answers_as_scikit_learn_predicts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few values, so that rows lie exactly on thresholds' neighbours.
    rows = rng.integers(0, 7, (600, NUM_FEATURES)).astype(np.float32) / np.float32(7)
    answers = rng.integers(0, NUM_ANSWERS, 600)
    fitted = sklearn_tree.DecisionTreeClassifier(max_depth=1 + seed % 5, random_state=0)
    fitted.fit(rows[:300], answers[:300])
    trees = from_sklearn(fitted)
    ours = [tree_answer(trees, row, seed % NUM_POINTS, True) for row in rows]
    np.testing.assert_array_equal(ours, fitted.predict(rows))


def leaf(*ranking: int) -> Trees:
    node = np.zeros(1, np.int64)
    return Trees(
        np.array([LEAF]), np.zeros(1), node - 1, node - 1, np.array([ranking]),
        np.array([0, NO_TREE, NO_TREE, NO_TREE]),
    )  # fmt: skip


def test_an_illegal_swap_falls_to_the_next_best() -> None:
    row = np.zeros(NUM_FEATURES, np.float32)
    assert tree_answer(leaf(1, 0, 2, 3), row, 0, True) == 1
    assert tree_answer(leaf(1, 0, 2, 3), row, 0, False) == 0
    assert tree_answer(leaf(1, 2, 0, 3), row, 0, False) == 2
    assert tree_answer(leaf(1, 3, 0, 2), row, 0, False) == AS_RULE


@pytest.mark.parametrize("rule", range(3))
def test_as_the_rule_and_outside_the_trained_range_the_rule_answers(rule: int) -> None:
    low, high = np.zeros(NUM_FEATURES), np.ones(NUM_FEATURES)
    for ranking in ((3, 0, 1, 2), ((rule + 1) % 3, 0, 3, 1)):
        policy = make_policy(None, 0.0, (low, high), leaf(*ranking))
        policy.observation[:] = 0.5
        policy.observation[-3:] = 0.0
        policy.observation[NUM_FEATURES - 3 + rule] = 1.0
        expected = rule if ranking[0] == AS_RULE else ranking[0]
        assert tree_verb(policy, 0, True) == expected
        policy.observation[4] = 1.5
        assert tree_verb(policy, 0, True) == rule


def test_no_trees_are_none() -> None:
    assert (no_trees().root == NO_TREE).all() and len(no_trees().feature) == 0
