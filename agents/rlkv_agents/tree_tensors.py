"""Trees as named tensors, and what makes tensors of a file trees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.tree import LEAF, NO_TREE, NUM_ANSWERS, NUM_POINTS, Trees

#: Field of ``Trees`` -> type in a file. Thresholds are float32 like the observations.
_TYPES: dict[str, type[np.generic]] = {
    "feature": np.int32,
    "threshold": np.float32,
    "left": np.int32,
    "right": np.int32,
    "ranking": np.int32,
    "root": np.int32,
}
_PREFIX = "tree_"
TREE_TENSORS = tuple(_PREFIX + field for field in _TYPES)


def tree_tensors(trees: Trees) -> dict[str, NDArray[Any]]:
    """The arrays of trees by name."""
    return {
        _PREFIX + field: np.ascontiguousarray(getattr(trees, field), kind)
        for field, kind in _TYPES.items()
    }


def trees_from(tensors: Mapping[str, NDArray[Any]]) -> Trees | None:
    """The trees that ``tree_tensors`` took apart; None if there are none."""
    if not any(name in tensors for name in TREE_TENSORS):
        return None
    arrays: dict[str, Any] = {
        field: np.ascontiguousarray(
            tensors[_PREFIX + field], np.float64 if kind is np.float32 else np.int64
        )
        for field, kind in _TYPES.items()
    }
    return Trees(**arrays)


def check_trees(tensors: Mapping[str, NDArray[Any]], path: Path | str) -> None:
    """Raises ``InputError`` unless the tensors are trees that every observation passes through.

    Children come after their parent and belong to it alone, so that no walk goes on for ever.
    """
    for name, kind in zip(TREE_TENSORS, _TYPES.values(), strict=True):
        if name not in tensors:
            raise InputError(f"tensor {name} is missing", path=path)
        if tensors[name].dtype != kind:
            raise InputError(
                f"tensor {name} is {tensors[name].dtype}, not {np.dtype(kind)}", path=path
            )
    num_nodes = tensors["tree_feature"].size
    for name in TREE_TENSORS:
        shape: tuple[int, ...] = (num_nodes,)
        if name == "tree_ranking":
            shape = (num_nodes, NUM_ANSWERS)
        elif name == "tree_root":
            shape = (NUM_POINTS,)
        if tensors[name].shape != shape:
            raise InputError(
                f"tensor {name} has shape {tensors[name].shape}, expected {shape}", path=path
            )
    _check_nodes({name: tensors[name] for name in TREE_TENSORS}, num_nodes, path)


def _check_nodes(tensors: dict[str, NDArray[Any]], num_nodes: int, path: Path | str) -> None:
    def refuse(tensor: str, node: int, what: str) -> None:
        raise InputError(f"{tensor}[{node}] is {tensors[tensor][node]}: {what}", path=path)

    parents = [0] * num_nodes
    for point in range(NUM_POINTS):
        root = int(tensors["tree_root"][point])
        if root != NO_TREE and not 0 <= root < num_nodes:
            refuse("tree_root", point, f"must be {NO_TREE} or one of {num_nodes} nodes")
        if root != NO_TREE:
            parents[root] += 1
    for node in range(num_nodes):
        feature = int(tensors["tree_feature"][node])
        if feature == LEAF:
            if sorted(tensors["tree_ranking"][node].tolist()) != list(range(NUM_ANSWERS)):
                refuse("tree_ranking", node, f"must hold each of 0 to {NUM_ANSWERS - 1} once")
            continue
        if not 0 <= feature < NUM_FEATURES:
            refuse("tree_feature", node, f"must be {LEAF} or one of {NUM_FEATURES} features")
        if not np.isfinite(tensors["tree_threshold"][node]):
            refuse("tree_threshold", node, "must be finite")
        for side in ("tree_left", "tree_right"):
            child = int(tensors[side][node])
            if not node < child < num_nodes:
                refuse(side, node, f"must be a node after {node}, before {num_nodes}")
            parents[child] += 1
    for node, count in enumerate(parents):
        if count != 1:
            raise InputError(f"tree node {node} has {count} parents, must have one", path=path)
