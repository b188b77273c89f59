"""The weights of a Hugging Face folder: one safetensors file, or many with an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from rlkv_engine.errors import InputError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, read one at a time.

    Raises:
        InputError: A file is missing or damaged.
    """
    for path in _files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"not a readable safetensors file: {error}", path=path) from error


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not index.is_file():
        raise InputError(
            f"neither {_SINGLE} nor {_INDEX}: weights in any other format are not read",
            path=folder,
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("not an index of safetensors: no weight_map", path=index) from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(f"names the file {name}, which is not in the folder", path=index)
    return [folder / name for name in names]
