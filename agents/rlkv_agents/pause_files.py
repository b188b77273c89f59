"""What is known of a workload's pauses as two files of a folder.

``pauses.safetensors`` holds the arrays of the table, and of its predictor if it has one;
``pauses.json`` says what they mean, with the SHA-256 of the arrays. Never a pickle: whatever is
read is checked before a compiled function walks along it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rlkv_agents.versioned_files import parse_versioned, read_bounded
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import NUM_BINS, PauseTable
from rlkv_engine.pause_features import NUM_TOOL_STATISTICS, PAUSE_FEATURES
from rlkv_engine.pause_predictor import (
    FEATURE,
    LEFT,
    NODE_COLUMNS,
    RIGHT,
    PausePredictor,
)
from rlkv_envs.traces.whole_file import write_files

#: Raised with every change that older readers would misread.
FORMAT_VERSION = 1
ARRAYS_FILE = "pauses.safetensors"
METADATA_FILE = "pauses.json"
#: A table and a tree are a hundred kilobytes; anything larger than this is neither.
MAX_BYTES = 16 * 2**20
_TABLE_ARRAYS = ("residual_s", "mean_s", "quantiles_s")
_TREE_ARRAYS = ("tool_statistics", "nodes")


def save_pauses(folder: Path, table: PauseTable) -> None:
    """Write both files, each whole, into a folder, which is made if missing.

    Raises:
        InputError: the folder cannot be written.
    """
    arrays = {name: np.ascontiguousarray(getattr(table, name)) for name in _TABLE_ARRAYS}
    predictor: dict[str, Any] | None = None
    if isinstance(table.classes, PausePredictor):
        arrays |= {
            name: np.ascontiguousarray(getattr(table.classes, name)) for name in _TREE_ARRAYS
        }
        predictor = {
            "features": [name for name, _ in PAUSE_FEATURES],
            "floor_s": table.classes.floor_s,
            "fitted_on": dict(table.classes.metadata),
        }
    payload = save(arrays)
    document = {
        "format_version": FORMAT_VERSION,
        "tools": list(table.tools),
        "predictor": predictor,
        "arrays_sha256": hashlib.sha256(payload).hexdigest(),
    }
    text = json.dumps(document, indent=2) + "\n"
    write_files(folder, {ARRAYS_FILE: payload, METADATA_FILE: text.encode()})


def load_pauses(folder: Path | str) -> PauseTable:
    """Read and check a table.

    Raises:
        InputError: a file is missing, damaged, of a newer format, or made for other features; the
            message names the file and what is wrong with it.
    """
    folder = Path(folder)
    meta_path, arrays_path = folder / METADATA_FILE, folder / ARRAYS_FILE
    document = _read_metadata(meta_path)
    payload = _read(arrays_path)
    if hashlib.sha256(payload).hexdigest() != document["arrays_sha256"]:
        raise InputError(
            f"the arrays are not the ones that {METADATA_FILE} was written with (SHA-256 differs)",
            path=arrays_path,
        )
    try:
        arrays = load(payload)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"not a safetensors file: {error}", path=arrays_path) from error
    tools, about = tuple(document["tools"]), document["predictor"]
    _check_arrays(arrays, len(tools), about is not None, arrays_path)
    predictor = None
    if about is not None:
        predictor = PausePredictor(
            tools=tools,
            floor_s=float(about["floor_s"]),
            metadata=about["fitted_on"],
            **{name: arrays[name] for name in _TREE_ARRAYS},
        )
    return PauseTable(
        tools=tools, classes=predictor, **{name: arrays[name] for name in _TABLE_ARRAYS}
    )


def _read(path: Path) -> bytes:
    return read_bounded(path, MAX_BYTES, "what is known of pauses")


def _read_metadata(path: Path) -> dict[str, Any]:
    document = parse_versioned(_read(path), FORMAT_VERSION, path)
    _check_fields(document, {"tools": list, "arrays_sha256": str}, path)
    if not all(isinstance(tool, str) for tool in document["tools"]):
        raise InputError("tools must be names", path=path)
    about = document.get("predictor")
    if about is None:
        return document | {"predictor": None}
    if not isinstance(about, dict):
        raise InputError("predictor is of the wrong type", path=path)
    _check_fields(about, {"features": list, "floor_s": (int, float), "fitted_on": dict}, path)
    if about["features"] != [name for name, _ in PAUSE_FEATURES]:
        raise InputError("it was fitted on other features than this rlkv has", path=path)
    if not 0.0 < about["floor_s"] < 1e9:
        raise InputError(f"floor_s must be above 0 (got {about['floor_s']})", path=path)
    return document


def _check_fields(
    document: dict[str, Any], expected: dict[str, type | tuple[type, ...]], path: Path
) -> None:
    for field, kind in expected.items():
        if not isinstance(document.get(field), kind):
            raise InputError(f"{field} is missing or of the wrong type", path=path)


def _check_arrays(
    arrays: dict[str, NDArray[Any]], num_tools: int, has_tree: bool, path: Path
) -> None:
    names = (*_TABLE_ARRAYS, *(_TREE_ARRAYS if has_tree else ()))
    for name in names:
        if name not in arrays:
            raise InputError(f"array {name} is missing", path=path)
        if arrays[name].dtype != np.float64:
            raise InputError(f"array {name} is {arrays[name].dtype}, not float64", path=path)
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"array {name} holds numbers that are not finite", path=path)
    num_rows = num_tools + 1
    if has_tree:
        nodes = arrays["nodes"]
        if nodes.ndim != 2 or nodes.shape[1] != NODE_COLUMNS or not len(nodes):
            raise InputError(f"array nodes has shape {nodes.shape}", path=path)
        num_rows = int((nodes[:, FEATURE] < 0).sum()) + 1
        _check_tree(nodes, num_rows - 1, path)
    shapes = {
        "residual_s": (num_rows, NUM_BINS),
        "mean_s": (num_rows,),
        "quantiles_s": (num_rows, 101),
        "tool_statistics": (num_tools + 1, NUM_TOOL_STATISTICS),
    }
    for name, shape in shapes.items():
        if name in names and arrays[name].shape != shape:
            reason = f"array {name} has shape {arrays[name].shape}, expected {shape}"
            raise InputError(reason, path=path)
    for name in _TABLE_ARRAYS:
        if (arrays[name] < 0).any():
            raise InputError(f"array {name} must not be negative", path=path)


def _check_tree(nodes: NDArray[np.float64], num_classes: int, path: Path) -> None:
    # Every link leads forwards, so that a walk along them ends, and nowhere outside the array.
    here = np.arange(len(nodes))
    leaf = nodes[:, FEATURE] < 0
    links = nodes[:, [FEATURE, LEFT, RIGHT]]
    if (links != np.floor(links)).any() or (nodes[:, FEATURE] >= len(PAUSE_FEATURES)).any():
        raise InputError("nodes: a feature or a link is no such number", path=path)
    if sorted(nodes[leaf, LEFT]) != list(range(num_classes)):
        raise InputError("nodes: the leaves are not the classes, each once", path=path)
    for side in (LEFT, RIGHT):
        to = nodes[~leaf, side]
        if (to <= here[~leaf]).any() or (to >= len(nodes)).any():
            raise InputError("nodes: a link does not lead forwards to a node", path=path)
