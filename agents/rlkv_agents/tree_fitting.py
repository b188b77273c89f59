"""One decision tree from demonstrations: fitted by scikit-learn, labelled and pruned here.

A leaf says whatever agrees best with the teacher: a verb, or "what the rule says". Two ways to
fit are tried, on the teacher's verbs and on its departures from the rule; the better one stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.demonstrations import Demonstrations
from rlkv_agents.inference import rule_verbs
from rlkv_engine.observe import FEATURES
from rlkv_engine.state import SWAP
from rlkv_engine.tree import AS_RULE, LEAF, NO_TREE, NUM_ANSWERS, NUM_POINTS, Trees

#: On one machine these are functions of a feature that stays, or do not vary: left out, so that a
#: tree asks the same thing in the same words.
REDUNDANT = frozenset(
    {
        "point_call", "point_new", "point_resume", "point_grow", "host_size", "link_speed",
        "remaining_0.3s", "remaining_1s", "remaining_3s", "remaining_10s", "remaining_30s",
        "remaining_100s", "elapsed", "waited_1s", "recompute_pauses", "link_over_recompute",
    }
)  # fmt: skip
#: A split stays if it wins at least this share of the weight.
MIN_GAIN = 0.002
#: A leaf holds at least this share of the demonstrations.
MIN_LEAF = 0.004


@dataclass(slots=True)
class Node:
    """A node while its tree is built; a leaf has no children."""

    rows: NDArray[np.int64]  # [num_rows], demonstrations that come here
    feature: int = LEAF
    threshold: float = 0.0
    children: tuple[Node, Node] | None = None


def fit_trees(demos: Demonstrations, weight: NDArray[np.float64], depth: int) -> Trees:
    """A tree for each decision point at which the teacher departs from the rule.

    Args:
        demos: what the teacher answered.
        weight: of each demonstration, shape ``[num]``; those of weight 0 are not learnt from.
        depth: of every tree, at most.
    """
    columns = [i for i, feature in enumerate(FEATURES) if feature.name not in REDUNDANT]
    roots: list[Node | None] = []
    votes = _votes(demos, weight)
    for point in range(NUM_POINTS):
        rows = np.flatnonzero((demos.point == point) & (weight > 0.0))
        departs = demos.verb[rows] != rule_verbs(demos.observation[rows])
        if not departs.any():
            roots.append(None)
            continue
        grown = [
            _grow(demos, label, weight, rows, columns, depth)
            for label in (np.where(_as_rule(demos), AS_RULE, demos.verb), demos.verb)
        ]
        for root in grown:
            _prune(root, votes, MIN_GAIN * float(weight[rows].sum()))
        root = max(grown, key=lambda root: _agreement(root, votes))
        asks_nothing = root.children is None and _best(root.rows, votes) == AS_RULE
        roots.append(None if asks_nothing else root)
    return _flatten(roots, demos, votes)


def _as_rule(demos: Demonstrations) -> NDArray[np.bool_]:
    return np.asarray(demos.verb == rule_verbs(demos.observation))


def _votes(demos: Demonstrations, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    # What each answer would win at each demonstration, [num, NUM_ANSWERS].
    votes = np.zeros((len(demos.verb), NUM_ANSWERS))
    votes[np.arange(len(demos.verb)), demos.verb] = weight
    votes[:, AS_RULE] = np.where(_as_rule(demos), weight, 0.0)
    return votes


def _grow(
    demos: Demonstrations,
    label: NDArray[np.int64],
    weight: NDArray[np.float64],
    rows: NDArray[np.int64],
    columns: Sequence[int],
    depth: int,
) -> Node:
    from sklearn.tree import DecisionTreeClassifier

    fitted = DecisionTreeClassifier(
        max_depth=depth, min_samples_leaf=max(1, int(MIN_LEAF * len(rows))), random_state=0
    )
    fitted.fit(demos.observation[rows][:, list(columns)], label[rows], sample_weight=weight[rows])
    return _nodes(fitted.tree_, 0, demos.observation, rows, columns)


def _nodes(
    tree: Any,
    node: int,
    observation: NDArray[np.float32],
    rows: NDArray[np.int64],
    columns: Sequence[int],
) -> Node:
    if tree.children_left[node] == tree.children_right[node]:
        return Node(rows)
    feature = columns[int(tree.feature[node])]
    threshold = as_float32(float(tree.threshold[node]))
    goes_left = observation[rows, feature] <= threshold
    children = [
        _nodes(tree, int(child), observation, part, columns)
        for child, part in (
            (tree.children_left[node], rows[goes_left]),
            (tree.children_right[node], rows[~goes_left]),
        )
    ]
    return Node(rows, feature, threshold, (children[0], children[1]))


def as_float32(threshold: float) -> float:
    """The largest float32 that is no larger: every float32 lies on the same side of both."""
    rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(rounded)


def _best(rows: NDArray[np.int64], votes: NDArray[np.float64]) -> int:
    # The rule where it is as good as any verb.
    won = votes[rows].sum(axis=0)
    best = int(won.argmax())
    return AS_RULE if won[AS_RULE] >= won[best] * (1.0 - 1e-9) else best


def _agreement(node: Node, votes: NDArray[np.float64]) -> float:
    if node.children is not None:
        return sum(_agreement(child, votes) for child in node.children)
    return float(votes[node.rows, _best(node.rows, votes)].sum())


def _prune(node: Node, votes: NDArray[np.float64], min_gain: float) -> None:
    # From below: two leaves become one where telling them apart wins next to nothing.
    if node.children is None:
        return
    for child in node.children:
        _prune(child, votes, min_gain)
    if any(child.children is not None for child in node.children):
        return
    apart = _agreement(node, votes)
    together = float(votes[node.rows, _best(node.rows, votes)].sum())
    if apart - together < min_gain:
        node.feature, node.threshold, node.children = LEAF, 0.0, None


def _ranking(
    rows: NDArray[np.int64], demos: Demonstrations, votes: NDArray[np.float64]
) -> list[int]:
    # Behind the best: what agrees best where a SWAP is not legal, since only SWAP may fail.
    best = _best(rows, votes)
    without = rows[~demos.mask[rows, SWAP]]
    won = votes[without if len(without) else rows].sum(axis=0)
    others = [answer for answer in range(NUM_ANSWERS) if answer != best]
    return [best, *sorted(others, key=lambda answer: (-won[answer], -answer))]


def _flatten(
    roots: Sequence[Node | None], demos: Demonstrations, votes: NDArray[np.float64]
) -> Trees:
    feature: list[int] = []
    threshold: list[float] = []
    children: list[list[int]] = []
    ranking: list[list[int]] = []

    def add(node: Node) -> int:
        index = len(feature)
        feature.append(node.feature)
        threshold.append(node.threshold)
        ranking.append(_ranking(node.rows, demos, votes))
        children.append([LEAF, LEAF])
        if node.children is not None:
            children[index] = [add(child) for child in node.children]
        return index

    root = [NO_TREE if node is None else add(node) for node in roots]
    pairs = np.array(children, np.int64).reshape(-1, 2)
    return Trees(
        np.array(feature, np.int64),
        np.array(threshold),
        np.ascontiguousarray(pairs[:, 0]),
        np.ascontiguousarray(pairs[:, 1]),
        np.array(ranking, np.int64).reshape(-1, NUM_ANSWERS),
        np.array(root, np.int64),
    )
