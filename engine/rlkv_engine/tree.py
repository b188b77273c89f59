"""Decision trees, compiled: a policy that a person can read, at some nanoseconds a decision."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit

#: Decision points: CALL, and a REVISIT for NEW, RESUME and GROW.
NUM_POINTS = 4
#: What a leaf can say: PRESERVE, SWAP, DISCARD, or "what the rule says".
AS_RULE = 3
NUM_ANSWERS = 4
#: The feature of a leaf; the root of a decision point that has no tree.
LEAF = NO_TREE = -1


class Trees(NamedTuple):
    """One tree for each decision point, as arrays over the nodes of all of them.

    An observation goes left where ``observation[feature] <= threshold``; a child comes after its
    parent. At a leaf the first answer of ``ranking`` that is legal is taken.
    """

    feature: NDArray[np.int64]  # [num_nodes], LEAF at a leaf
    threshold: NDArray[np.float64]  # [num_nodes]
    left: NDArray[np.int64]  # [num_nodes]
    right: NDArray[np.int64]  # [num_nodes]
    ranking: NDArray[np.int64]  # [num_nodes, NUM_ANSWERS], best first; read at leaves
    root: NDArray[np.int64]  # [NUM_POINTS], NO_TREE where the rule answers


def no_trees() -> Trees:
    """No tree for any decision point."""
    return Trees(
        np.zeros(0, np.int64),
        np.zeros(0),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros((0, NUM_ANSWERS), np.int64),
        np.full(NUM_POINTS, NO_TREE, np.int64),
    )


@jit
def tree_leaf(trees: Trees, observation: NDArray[np.float32], point: int) -> int:
    """The leaf that an observation ends in; the point must have a tree."""
    node = trees.root[point]
    while trees.feature[node] != LEAF:
        if observation[trees.feature[node]] <= trees.threshold[node]:
            node = trees.left[node]
        else:
            node = trees.right[node]
    return node


@jit
def tree_answer(
    trees: Trees, observation: NDArray[np.float32], point: int, swap_legal: bool
) -> int:
    """The first legal answer at the leaf of an observation; AS_RULE is always legal."""
    node = tree_leaf(trees, observation, point)
    for place in range(NUM_ANSWERS):
        answer = trees.ranking[node, place]
        if answer != 1 or swap_legal:
            return answer
    return AS_RULE
