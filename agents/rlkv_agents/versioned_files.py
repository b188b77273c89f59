"""Reading what somebody hands us: bounded files, and JSON that says its format's version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlkv_engine.errors import InputError


def read_bounded(path: Path, max_bytes: int, what: str) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: it cannot be read, or is too large for ``what``.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path.stat().st_size} bytes: too large for {what}", path=path)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read it: {error.strerror}", path=path) from error


def parse_versioned(payload: bytes, newest: int, path: Path) -> dict[str, Any]:
    """A JSON object whose ``format_version`` is 1 to ``newest``; ``path`` is for errors.

    Raises:
        InputError: it is not JSON, no object, or of another version.
    """
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", path=path) from error
    if not isinstance(document, dict):
        raise InputError("not a JSON object", path=path)
    version = document.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"format_version must be 1 or more (got {version!r})", path=path)
    if version > newest:
        raise InputError(
            f"format_version {version} is newer than {newest}, the newest this rlkv reads",
            path=path,
        )
    return document
