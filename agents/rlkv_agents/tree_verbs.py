"""Trees in NumPy: the leaves and the verbs of many observations at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.state import SWAP
from rlkv_engine.tree import AS_RULE, LEAF, NO_TREE, Trees


def leaves_of(
    trees: Trees, observations: NDArray[np.float32], point: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The leaf of each observation, shape ``[n]``; NO_TREE where its point has no tree."""
    node = trees.root[point]
    rows = np.arange(len(node))
    while True:
        inner = (node != NO_TREE) & (trees.feature[node] != LEAF) if len(trees.feature) else None
        if inner is None or not inner.any():
            return node
        at, row = node[inner], rows[inner]
        goes_left = observations[row, trees.feature[at]] <= trees.threshold[at]
        node[inner] = np.where(goes_left, trees.left[at], trees.right[at])


def answers_of(
    trees: Trees,
    observations: NDArray[np.float32],
    point: NDArray[np.int64],
    swap_legal: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """The answer to each observation, shape ``[n]``: a verb, or AS_RULE."""
    leaf = leaves_of(trees, observations, point)
    if not len(trees.feature):
        return np.full(len(leaf), AS_RULE, np.int64)
    first, second = trees.ranking[leaf, 0], trees.ranking[leaf, 1]
    answer = np.where((first == SWAP) & ~swap_legal, second, first)
    return np.asarray(np.where(leaf == NO_TREE, AS_RULE, answer), np.int64)
