"""A bundle: a trained policy as a folder of safetensors weights and JSON metadata.

Readable without torch, never a pickle. ``weights.safetensors`` holds ``weight_1, bias_1, weight_2,
bias_2, weight_3, bias_3`` and the range of observations they were trained on, ``range_low`` and
``range_high``; for trees ``tree_feature, tree_threshold, ...`` (tree_tensors.py) in place of the
network's; with advice on the rule's constants ``advice_*`` (advice.py).
``bundle.json`` says what the numbers mean, and the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rlkv_agents.advice import CONSTANTS, DESCRIPTION
from rlkv_agents.policy import (
    ADVICE_TENSORS,
    NETWORK_TENSORS,
    NUM_VERBS,
    RANGE_TENSORS,
    AgentPolicy,
    from_tensors,
    to_tensors,
)
from rlkv_agents.rules import constants_of, make_rule
from rlkv_agents.shipped import bundle_folder
from rlkv_agents.tree_tensors import TREE_TENSORS, check_trees
from rlkv_agents.versioned_files import parse_versioned, read_bounded
from rlkv_engine.errors import InputError
from rlkv_engine.observe import FEATURES
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from rlkv_envs.traces.whole_file import write_files

#: Raised with every change that older readers would misread.
FORMAT_VERSION = 1
VERBS = ["PRESERVE", "SWAP", "DISCARD"]
WEIGHTS_FILE = "weights.safetensors"
METADATA_FILE = "bundle.json"
#: A bundle is a few kilobytes; anything larger than this is not one.
MAX_BYTES = 16 * 2**20
#: It becomes a row of a table and the label of a curve.
MAX_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A loaded bundle: the policy, and everything its metadata says."""

    policy: AgentPolicy
    metadata: Mapping[str, Any]


def save_bundle(folder: Path, policy: AgentPolicy, metadata: Mapping[str, Any]) -> None:
    """Write the ``bundle_files`` into a folder, which is made if missing.

    Raises:
        InputError: the folder cannot be written.
    """
    write_files(folder, bundle_files(policy, metadata))


def bundle_files(policy: AgentPolicy, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a bundle by name.

    Args:
        policy: a network, trees, or a rule (stored as a network that never leaves it).
        metadata: what it was trained on and how it did, JSON values.
    """
    tensors = to_tensors(policy)
    payload = save(tensors)
    document = {
        "format_version": FORMAT_VERSION,
        "name": policy.name,
        "observations": [
            {"name": f.name, "low": f.low, "high": f.high, "scale": 1.0, "offset": 0.0}
            for f in FEATURES
        ],
        "verbs": VERBS,
        "hidden": len(tensors["bias_1"]) if "bias_1" in tensors else 0,
        "prior": policy.prior if policy.weights is not None else 1.0,
        "min_confidence": policy.min_confidence,
        "rule": {"name": policy.rule.name, "constants": constants_of(policy.rule)},
        **({"predicts_pauses": True} if policy.predicts_pauses else {}),
        "weights_sha256": hashlib.sha256(payload).hexdigest(),
        **metadata,
    }
    return {
        WEIGHTS_FILE: payload,
        METADATA_FILE: (json.dumps(document, indent=2) + "\n").encode(),
    }


def load_bundle(folder: Path | str) -> Bundle:
    """Read and check a bundle; ``universal`` is the one that comes with the package.

    Raises:
        InputError: a file is missing, damaged, of a newer format, or made for other observations;
            the message names the file and what is wrong with it.
    """
    folder = bundle_folder(folder)
    meta_path, weights_path = folder / METADATA_FILE, folder / WEIGHTS_FILE
    document = _read_metadata(meta_path)
    payload = _read(weights_path)
    if hashlib.sha256(payload).hexdigest() != document["weights_sha256"]:
        raise InputError(
            "the weights are not the ones that bundle.json was written with (SHA-256 differs)",
            path=weights_path,
        )
    try:
        tensors = load(payload)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"not a safetensors file: {error}", path=weights_path) from error
    _check_tensors(tensors, int(document["hidden"]), weights_path)
    try:
        rule = make_rule(document["rule"]["name"], document["rule"]["constants"])
    except InputError as error:
        raise InputError(error.reason, path=meta_path) from error
    policy = from_tensors(
        str(document["name"]),
        rule,
        float(document["prior"]),
        tensors,
        float(document.get("min_confidence", 0.0)),
        bool(document.get("predicts_pauses", False)),
    )
    return Bundle(policy, document)


def change_metadata(folder: Path | str, changes: Mapping[str, Any]) -> None:
    """Writes other values into a bundle's metadata, and leaves the policy as it is.

    Raises:
        InputError: it is no bundle, or cannot be written.
    """
    folder = bundle_folder(folder)
    document = {**load_bundle(folder).metadata, **changes}
    write_files(folder, {METADATA_FILE: (json.dumps(document, indent=2) + "\n").encode()})


def _read(path: Path) -> bytes:
    return read_bounded(path, MAX_BYTES, "a bundle")


def _read_metadata(path: Path) -> dict[str, Any]:
    document = parse_versioned(_read(path), FORMAT_VERSION, path)
    expected: dict[str, type | tuple[type, ...]] = {
        "name": str,
        "observations": list,
        "hidden": int,
        "prior": (int, float),
        "rule": dict,
        "weights_sha256": str,
    }
    for field, kind in expected.items():
        if not isinstance(document.get(field), kind):
            raise InputError(f"{field} is missing or of the wrong type", path=path)
    name = document["name"]
    if not name.isprintable() or not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise InputError(
            f"name must be 1 to {MAX_NAME_LENGTH} printable characters (got {name[:80]!r})",
            path=path,
        )
    rule = document["rule"]
    constants = rule.get("constants")
    if not isinstance(rule.get("name"), str) or not isinstance(constants, dict):
        raise InputError("rule needs a name and constants", path=path)
    for constant, value in constants.items():
        if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise InputError(f"rule constant {constant!r} must be a finite number", path=path)
    if not isinstance(document.get("predicts_pauses", False), bool):
        raise InputError("predicts_pauses must be true or false", path=path)
    if not 0.0 <= document["prior"] < 1e6:
        raise InputError("prior must be a number from 0 to a million", path=path)
    confidence = document.get("min_confidence", 0.0)
    if not isinstance(confidence, int | float) or not 0.0 <= confidence <= 1.0:
        raise InputError(f"min_confidence must be from 0 to 1 (got {confidence!r})", path=path)
    if document.get("verbs") != VERBS:
        raise InputError(f"verbs must be {', '.join(VERBS)}", path=path)
    _check_observations(document["observations"], path)
    return document


def _check_observations(observations: list[Any], path: Path) -> None:
    names = [item.get("name") if isinstance(item, dict) else None for item in observations]
    if len(names) != len(FEATURES):
        raise InputError(f"{len(names)} observations, this rlkv has {len(FEATURES)}", path=path)
    for i, (name, feature) in enumerate(zip(names, FEATURES, strict=True)):
        if name != feature.name:
            raise InputError(f"observation {i} is {name!r}, here it is {feature.name!r}", path=path)
        if (observations[i].get("scale"), observations[i].get("offset")) != (1.0, 0.0):
            raise InputError(f"observation {name} must have scale 1 and offset 0", path=path)


def _check_tensors(tensors: Mapping[str, np.ndarray], hidden: int, path: Path) -> None:
    features = len(FEATURES)
    shapes: dict[str, tuple[int, ...]] = {
        "weight_1": (hidden, features), "bias_1": (hidden,),
        "weight_2": (hidden, hidden), "bias_2": (hidden,),
        "weight_3": (NUM_VERBS, hidden), "bias_3": (NUM_VERBS,),
        "range_low": (features,), "range_high": (features,),
    }  # fmt: skip
    if any(name in tensors for name in TREE_TENSORS):
        check_trees(tensors, path)
        if not any(name in tensors for name in NETWORK_TENSORS):
            shapes = {name: shape for name, shape in shapes.items() if name in RANGE_TENSORS}
    if any(name in tensors for name in ADVICE_TENSORS):
        machines = max(np.size(tensors.get("advice_machines", 0)) // len(DESCRIPTION), 1)
        shapes["advice_machines"] = (machines, len(DESCRIPTION))
        rules = max(np.size(tensors.get("advice_constants", 0)) // len(CONSTANTS), 1)
        shapes["advice_constants"] = (rules, len(CONSTANTS))
        shapes["advice_regret"] = (machines, rules)
        orders = max(np.size(tensors.get("advice_orders", 0)) // NUM_ORDER_TERMS, 1)
        shapes["advice_orders"] = (orders, NUM_ORDER_TERMS)
        shapes["advice_order_regret"] = (machines, orders)
        shapes["advice_departs"] = (machines,)
    for name, shape in shapes.items():
        if name not in tensors:
            raise InputError(f"tensor {name} is missing", path=path)
        if tensors[name].shape != shape:
            raise InputError(
                f"tensor {name} has shape {tensors[name].shape}, expected {shape}", path=path
            )
        if tensors[name].dtype != np.float32:
            raise InputError(f"tensor {name} is {tensors[name].dtype}, not float32", path=path)
        bad = np.isnan if name.startswith("range_") else lambda x: ~np.isfinite(x)
        if bad(tensors[name]).any():
            raise InputError(f"tensor {name} holds numbers that are not finite", path=path)
