"""Where a training run stands, as files: so that it can be interrupted and resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rlkv_engine.errors import InputError

#: Named arrays: float32, and int64 for counts.
Tensors = Mapping[str, NDArray[Any]]

_STATE, _BEST, _PROGRESS = "state.safetensors", "best.safetensors", "progress.json"


@dataclass(slots=True)
class Progress:
    """What a run has done so far."""

    #: Scenario, recipe, seed and so on: a run is only resumed by one that asks for the same.
    settings: dict[str, Any]
    rounds_done: int = 0
    cpu_s: float = 0.0
    #: Points of the learning curve: steps, cpu_s, validation_s, score, chosen.
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_score: float = 0.0
    best_round: int = -1
    #: What tuning chose: rule -> constants and validation latency.
    tuned: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    progress: Progress,
    state: Tensors,
    best: Tensors,
) -> None:
    """Write a checkpoint; ``progress.json`` goes last, so that it never speaks of missing tensors.

    Raises:
        InputError: the folder cannot be written.
    """
    document = {name: getattr(progress, name) for name in Progress.__slots__}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, payload in (
            (f"{progress.rounds_done}.{_STATE}", save(_plain(state))),
            (f"{progress.rounds_done}.{_BEST}", save(_plain(best))),
            (_PROGRESS, json.dumps(document).encode()),
        ):
            temporary = folder / (name + ".tmp")
            temporary.write_bytes(payload)
            os.replace(temporary, folder / name)
        for old in folder.glob("*.safetensors"):
            if not old.name.startswith(f"{progress.rounds_done}."):
                old.unlink()
    except OSError as error:
        raise InputError(f"cannot write the checkpoint: {error.strerror}", path=folder) from error


def load_checkpoint(
    folder: Path, settings: Mapping[str, Any]
) -> tuple[Progress, dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
    """Progress, learner tensors and best actor of an interrupted run.

    Raises:
        InputError: there is none, it is damaged, or it belongs to a run with other settings.
    """
    path = folder / _PROGRESS
    try:
        document = json.loads(path.read_bytes())
        progress = Progress(**document)
        state = load((folder / f"{progress.rounds_done}.{_STATE}").read_bytes())
        best = load((folder / f"{progress.rounds_done}.{_BEST}").read_bytes())
    except FileNotFoundError as error:
        raise InputError("no checkpoint to resume from", path=error.filename) from error
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise InputError(f"damaged checkpoint: {error}", path=path) from error
    for name, wanted in settings.items():
        if progress.settings.get(name) != wanted:
            raise InputError(
                f"the checkpoint has {name} {progress.settings.get(name)!r}, this run {wanted!r}",
                path=path,
            )
    return progress, state, best


def _plain(tensors: Tensors) -> dict[str, NDArray[Any]]:
    # Counts stay whole numbers: float32 is exact only up to 2**24.
    return {
        name: np.ascontiguousarray(array, np.int64 if array.dtype.kind == "i" else np.float32)
        for name, array in tensors.items()
    }
