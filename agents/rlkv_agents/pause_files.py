"""A predictor of pauses as two files of a folder, on their own or beside a bundle's.

``pauses.safetensors`` holds the arrays, ``pauses.json`` what they mean and the SHA-256 of the
arrays. Never a pickle: whatever is read is checked before a compiled function walks along it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rlkv_engine.errors import InputError
from rlkv_engine.estimates import NUM_BINS
from rlkv_engine.pause_features import NUM_TOOL_STATISTICS, PAUSE_FEATURES
from rlkv_engine.pause_predictor import (
    FEATURE,
    LEFT,
    NODE_COLUMNS,
    RIGHT,
    THRESHOLD,
    VALUE,
    PausePredictor,
)

#: Raised with every change that older readers would misread.
FORMAT_VERSION = 1
ARRAYS_FILE = "pauses.safetensors"
METADATA_FILE = "pauses.json"
#: A predictor is a few hundred kilobytes; anything larger than this is not one.
MAX_BYTES = 64 * 2**20
MAX_CLASSES = 64
_ARRAYS = ("tool_statistics", "edges_s", "trees", "alive", "excess_s")


def save_predictor(folder: Path, predictor: PausePredictor) -> None:
    """Write both files; each appears whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    arrays = {name: np.ascontiguousarray(getattr(predictor, name)) for name in _ARRAYS}
    payload = save(arrays)
    document = {
        "format_version": FORMAT_VERSION,
        "features": [name for name, _ in PAUSE_FEATURES],
        "tools": list(predictor.tools),
        "floor_s": predictor.floor_s,
        "arrays_sha256": hashlib.sha256(payload).hexdigest(),
        "fitted_on": dict(predictor.metadata),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / ARRAYS_FILE, payload)
        _replace(folder / METADATA_FILE, (json.dumps(document, indent=2) + "\n").encode())
    except OSError as error:
        raise InputError(f"cannot write the predictor: {error.strerror}", path=folder) from error


def load_predictor(folder: Path | str) -> PausePredictor:
    """Read and check a predictor.

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
    _check_arrays(arrays, len(document["tools"]), arrays_path)
    return PausePredictor(
        tools=tuple(document["tools"]),
        floor_s=float(document["floor_s"]),
        metadata=document["fitted_on"],
        **{name: arrays[name] for name in _ARRAYS},
    )


def _replace(path: Path, payload: bytes) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_bytes(payload)
    os.replace(temporary, path)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path.stat().st_size} bytes: too large for a predictor", path=path)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", path=path) from error


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", path=path) from error
    if not isinstance(document, dict):
        raise InputError("not a JSON object", path=path)
    version = document.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"format_version must be 1 or more (got {version!r})", path=path)
    if version > FORMAT_VERSION:
        raise InputError(
            f"format_version {version} is newer than {FORMAT_VERSION}, the newest this rlkv reads",
            path=path,
        )
    expected: dict[str, type | tuple[type, ...]] = {
        "features": list,
        "tools": list,
        "floor_s": (int, float),
        "arrays_sha256": str,
        "fitted_on": dict,
    }
    for field, kind in expected.items():
        if not isinstance(document.get(field), kind):
            raise InputError(f"{field} is missing or of the wrong type", path=path)
    if document["features"] != [name for name, _ in PAUSE_FEATURES]:
        raise InputError("it was fitted on other features than this rlkv has", path=path)
    if not all(isinstance(tool, str) for tool in document["tools"]):
        raise InputError("tools must be names", path=path)
    if not 0.0 < document["floor_s"] < 1e9:
        raise InputError(f"floor_s must be above 0 (got {document['floor_s']})", path=path)
    return document


def _check_arrays(arrays: dict[str, NDArray[Any]], num_tools: int, path: Path) -> None:
    for name in _ARRAYS:
        if name not in arrays:
            raise InputError(f"array {name} is missing", path=path)
        if arrays[name].dtype != np.float64:
            raise InputError(f"array {name} is {arrays[name].dtype}, not float64", path=path)
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"array {name} holds numbers that are not finite", path=path)
    num_classes = len(arrays["edges_s"]) + 1 if arrays["edges_s"].ndim == 1 else 0
    if not 1 <= num_classes <= MAX_CLASSES:
        raise InputError(f"edges_s must have fewer than {MAX_CLASSES} entries", path=path)
    shapes = {
        "tool_statistics": (num_tools + 1, NUM_TOOL_STATISTICS),
        "alive": (num_classes, NUM_BINS),
        "excess_s": (num_classes, NUM_BINS),
        "trees": (len(arrays["trees"]) if arrays["trees"].ndim else 0, NODE_COLUMNS),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            reason = f"array {name} has shape {arrays[name].shape}, expected {shape}"
            raise InputError(reason, path=path)
    if (arrays["alive"] < 0).any() or (arrays["excess_s"] < 0).any():
        raise InputError("alive and excess_s must not be negative", path=path)
    _check_trees(arrays["trees"], num_classes - 1, path)


def _check_trees(trees: NDArray[np.float64], num_hazards: int, path: Path) -> None:
    # Every link leads forwards, so that a walk along them ends, and nowhere outside the arrays.
    here = np.arange(len(trees))
    leaf = trees[:, FEATURE] < 0
    whole = np.delete(trees, [THRESHOLD, VALUE], axis=1)
    if not (whole == np.floor(whole)).all() or (trees[:, FEATURE] >= len(PAUSE_FEATURES)).any():
        raise InputError("trees: a node's feature or link is no such number", path=path)
    hazards = trees[leaf, THRESHOLD]
    if not np.isin(hazards, np.arange(num_hazards)).all():
        raise InputError("trees: a leaf adds to a hazard that there is not", path=path)
    for side, checked in ((LEFT, ~leaf | (trees[:, LEFT] != -1)), (RIGHT, ~leaf)):
        to = trees[checked, side]
        if (to <= here[checked]).any() or (to >= len(trees)).any():
            raise InputError("trees: a link does not lead forwards to a node", path=path)
