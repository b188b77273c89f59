"""What may become of a bundle's files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from rlkv_agents.bundle import METADATA_FILE, WEIGHTS_FILE


def truncated(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-100])


def of_another_version(folder: Path) -> None:
    document = json.loads((folder / METADATA_FILE).read_bytes())
    (folder / METADATA_FILE).write_text(json.dumps(document | {"format_version": 99}))


def with_nan(folder: Path) -> None:
    tensors = dict(load((folder / WEIGHTS_FILE).read_bytes()))
    tensors["weight_2"] = np.full_like(tensors["weight_2"], np.nan)
    payload = save(tensors)
    (folder / WEIGHTS_FILE).write_bytes(payload)
    document = json.loads((folder / METADATA_FILE).read_bytes())
    document["weights_sha256"] = hashlib.sha256(payload).hexdigest()
    (folder / METADATA_FILE).write_text(json.dumps(document))


def of_other_features(folder: Path) -> None:
    document = json.loads((folder / METADATA_FILE).read_bytes())
    document["observations"] = document["observations"][:-1]
    (folder / METADATA_FILE).write_text(json.dumps(document))


def gone(folder: Path) -> None:
    (folder / METADATA_FILE).unlink()
