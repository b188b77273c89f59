"""Where a training run stands, as files: so that it can be interrupted and resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rlkv_engine.errors import InputError
from rlkv_envs.traces.whole_file import write_files

#: Named arrays: float32, and int64 for counts.
Tensors = Mapping[str, NDArray[Any]]

_STATE, _BEST, PROGRESS_FILE = "state.safetensors", "best.safetensors", "progress.json"


class CurvePoint(TypedDict):
    """A validation during training; ``validation_s`` in seconds per token."""

    steps: int
    cpu_s: float
    validation_s: float
    score: float
    chosen: bool
    form: NotRequired[str]  #: of a recipe with more than one learner: whose snapshot it is


class Tuned(TypedDict):
    """What tuning chose for one rule."""

    constants: dict[str, float]
    validation_s: float
    num_candidates: int


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """What a run has done so far."""

    #: Scenario, recipe, seed and so on: a run is only resumed by one that asks for the same.
    settings: dict[str, Any]
    num_rounds: int  #: in all, as the run was last asked for
    rounds_done: int = 0
    cpu_s: float = 0.0
    curve: list[CurvePoint] = []
    best_score: float = 0.0
    best_round: int = -1
    #: By rule.
    tuned: dict[str, Tuned] = {}
    #: Constants of the start rule with the order that was learnt; None: not yet.
    ordered_rule: dict[str, float] | None = None
    #: Constants of the rule under the best snapshot; empty: there is none.
    best_rule: dict[str, float] = {}
    #: SHA-256 of the files of tensors, by name.
    sha256: dict[str, str] = {}


def save_checkpoint(folder: Path, progress: Progress, state: Tensors, best: Tensors) -> None:
    """Write a checkpoint; ``progress.json`` goes last, so that it never speaks of missing tensors.

    Raises:
        InputError: the folder cannot be written.
    """
    payloads = {
        f"{progress.rounds_done}.{name}": save(_plain(tensors))
        for name, tensors in ((_STATE, state), (_BEST, best))
    }
    progress.sha256 = {
        name: hashlib.sha256(payload).hexdigest() for name, payload in payloads.items()
    }
    payloads[PROGRESS_FILE] = msgspec.json.encode(progress)
    write_files(folder, payloads)
    for old in folder.glob("*.safetensors"):
        if old.name not in payloads:
            old.unlink()


def load_checkpoint(
    folder: Path, settings: Mapping[str, Any]
) -> tuple[Progress, dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
    """Progress, learner tensors and best actor of an interrupted run.

    Raises:
        InputError: there is none, it is damaged, or it belongs to a run with other settings.
    """
    path = folder / PROGRESS_FILE
    try:
        progress = msgspec.json.decode(path.read_bytes(), type=Progress)
    except FileNotFoundError as error:
        raise InputError("no checkpoint to resume from", path=path) from error
    except (OSError, ValueError) as error:
        raise InputError(f"damaged checkpoint: {error}", path=path) from error
    for name, wanted in settings.items():
        if progress.settings.get(name) != wanted:
            raise InputError(
                f"the checkpoint has {name} {progress.settings.get(name)!r}, this run {wanted!r}",
                path=path,
            )
    state, best = (
        _load(folder / f"{progress.rounds_done}.{name}", progress) for name in (_STATE, _BEST)
    )
    return progress, state, best


def _load(path: Path, progress: Progress) -> dict[str, NDArray[Any]]:
    try:
        payload = path.read_bytes()
        if hashlib.sha256(payload).hexdigest() != progress.sha256.get(path.name):
            raise InputError("damaged checkpoint: SHA-256 differs", path=path)
        return load(payload)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"damaged checkpoint: {error}", path=path) from error


def _plain(tensors: Tensors) -> dict[str, NDArray[Any]]:
    # Counts stay whole numbers: float32 is exact only up to 2**24.
    return {
        name: np.ascontiguousarray(array, np.int64 if array.dtype.kind == "i" else np.float32)
        for name, array in tensors.items()
    }
