"""Decodes one JSON row with its place in the error."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from rlkv_engine.errors import InputError

_Row = TypeVar("_Row")


def decode_row(
    decoder: msgspec.json.Decoder[_Row], data: bytes, path: Path | str, line: int | None = None
) -> _Row:
    """Decodes ``data``; whatever is wrong with it becomes a one-line ``InputError``."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise InputError(_one_line(error), path=path, line=line) from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise InputError(f"not valid JSON: {_one_line(error)}", path=path, line=line) from error
    except RecursionError as error:
        raise InputError("JSON nested too deeply", path=path, line=line) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
