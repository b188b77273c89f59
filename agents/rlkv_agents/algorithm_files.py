"""A learning model as files: a bundle, and beside it what learning goes on from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rlkv_agents.bundle import METADATA_FILE, bundle_files, load_bundle
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.errors import InputError
from rlkv_envs.traces.whole_file import write_files

TRAINING_FILE = "training.safetensors"
_ALGORITHM = "forked_ppo"
#: Layers of ``Actor``, in the order of ``AgentPolicy.weights``.
_LAYERS = (
    "body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias", "head.weight", "head.bias",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class SavedAlgorithm:
    """What a folder holds; of a plain bundle the policy alone."""

    policy: AgentPolicy
    arguments: Mapping[str, Any]
    counts: Mapping[str, int]
    tensors: dict[str, NDArray[Any]]


def write_algorithm(
    folder: Path,
    policy: AgentPolicy,
    arguments: Mapping[str, Any],
    counts: Mapping[str, int],
    tensors: Mapping[str, NDArray[Any]],
) -> None:
    """Writes the files of a bundle and ``training.safetensors``; ".zip" is dropped from the name.

    Raises:
        InputError: the folder cannot be written.
    """
    payload = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    metadata = {
        "recipe": "forked-ppo",
        "seed": arguments["seed"],
        _ALGORITHM: {
            "arguments": dict(arguments),
            "counts": dict(counts),
            "training_sha256": hashlib.sha256(payload).hexdigest(),
        },
    }
    files = bundle_files(policy, metadata) | {TRAINING_FILE: payload}
    write_files(_folder(folder), files)


def read_algorithm(folder: Path) -> SavedAlgorithm:
    """What ``write_algorithm`` wrote, or a bundle that something else did.

    Raises:
        InputError: not a bundle, or a file that is damaged.
    """
    folder = _folder(folder)
    bundle = load_bundle(folder)
    said = bundle.metadata.get(_ALGORITHM)
    if said is None:
        return SavedAlgorithm(bundle.policy, {}, {}, {})
    path = folder / TRAINING_FILE
    try:
        payload = path.read_bytes()
        arguments, counts, sha256 = (
            said[name] for name in ("arguments", "counts", "training_sha256")
        )
        if hashlib.sha256(payload).hexdigest() != sha256:
            raise InputError("not the file it was saved with (SHA-256 differs)", path=path)
        return SavedAlgorithm(bundle.policy, dict(arguments), dict(counts), load(payload))
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", path=path) from error
    except (SafetensorError, ValueError) as error:
        raise InputError(f"not a safetensors file: {error}", path=path) from error
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{_ALGORITHM} lacks something: {error}", path=folder / METADATA_FILE
        ) from error


def tensors_of(policy: AgentPolicy, learner: ForkedLearner) -> dict[str, NDArray[Any]]:
    """A learner's tensors with the network of a policy, and its optimizer as it is at the start.

    A bundle of a plain rule leaves the learner where it is: at that rule.
    """
    tensors = learner.tensors()
    if policy.weights is None or not any(array.any() for array in policy.weights):
        return tensors
    for layer, array in zip(_LAYERS, policy.weights, strict=True):
        tensors[f"net.{layer}"] = array.astype(np.float32)
    if policy.trained_range is not None:
        # What is not checked is unlimited: that much has not been met.
        low, high = policy.trained_range
        tensors["extremes"] = np.stack(
            [np.where(np.isfinite(low), low, np.inf), np.where(np.isfinite(high), high, -np.inf)]
        ).astype(np.float32)
    return tensors


def _folder(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".zip" else path
