"""A key that is kept in a file: lists of processes show options."""

from __future__ import annotations

from pathlib import Path

from rlkv_engine.errors import InputError


def read_key(file: Path) -> str:
    """The first line.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", path=file) from error
    if not lines or not lines[0].strip():
        raise InputError("its first line is empty: no key", path=file)
    return lines[0].strip()
