"""What a long comparison has found so far, so that it can go on where it was interrupted.

Every result lies beside the digest of its inputs; it counts only while they are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import numpy as np

import rlkv_engine
import rlkv_envs
from rlkv_agents import base_rule, evaluate, house_rule, policy, rules
from rlkv_engine.errors import InputError
from rlkv_envs.traces.whole_file import whole_file


def digest(*inputs: Any) -> str:
    """SHA-256 of arrays and JSON values."""
    total = hashlib.sha256()
    for each in inputs:
        if isinstance(each, np.ndarray):
            total.update(f"{each.dtype}{each.shape}".encode() + each.tobytes())
        else:
            total.update(json.dumps(each, sort_keys=True).encode())
        total.update(b"\0")
    return total.hexdigest()


@cache
def source_digest() -> str:
    """SHA-256 of the sources that decide what a run gives."""
    modules = (evaluate, policy, base_rule, house_rule, rules)
    files = [Path(str(module.__file__)) for module in modules]
    for package in (rlkv_engine, rlkv_envs):
        for suffix in ("py", "toml"):
            files += sorted(Path(str(package.__file__)).parent.rglob(f"*.{suffix}"))
    return _files_digest(files)


@cache
def package_digest(package: ModuleType) -> str:
    """SHA-256 of the sources of a package, without those below its subpackages."""
    return _files_digest(sorted(Path(str(package.__file__)).parent.glob("*.py")))


def _files_digest(files: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()


class ResultFolder:
    """A file for each result, named after its key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: Sequence[str], inputs: str) -> dict[str, Any] | None:
        """The result for these inputs; None if there is none, or it is damaged."""
        return _result_for(inputs, _read(self._path(key)))

    def put(self, key: Sequence[str], inputs: str, result: dict[str, Any]) -> None:
        """Keep a result; the file appears whole or not at all."""
        _write(self._path(key), {"digest": inputs, "result": result})

    def _path(self, key: Sequence[str]) -> Path:
        return self.folder / ("--".join(quote(word, safe=" ") for word in key) + ".json")


class ResultFile:
    """One file for all results."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = _read(path)

    def get(self, key: Sequence[str], inputs: str) -> dict[str, Any] | None:
        """The result for these inputs, if there is one."""
        return _result_for(inputs, self.entries.get("/".join(key)))

    def put(self, key: Sequence[str], inputs: str, result: dict[str, Any]) -> None:
        """Keep a result; the file appears whole or not at all."""
        self.entries["/".join(key)] = {"digest": inputs, "result": result}
        _write(self.path, self.entries)


def _result_for(inputs: str, found: object) -> dict[str, Any] | None:
    # Anything that is not a result for these inputs is as good as nothing.
    if not isinstance(found, dict) or found.get("digest") != inputs:
        return None
    result = found.get("result")
    return result if isinstance(result, dict) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, document: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", path=path) from error
    with whole_file(path) as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())
