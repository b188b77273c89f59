"""Comma-separated rows with named columns and checked numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from rlkv_engine.errors import InputError
from rlkv_envs.traces.lines import read_lines


def read_csv(path: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Yields ``(line number, cells)``; a quoted cell must not span lines.

    Raises:
        InputError: the file cannot be read, or a line is not valid CSV in UTF-8.
    """
    for line, data in read_lines(path):
        try:
            text = data.decode("utf-8-sig" if line == 1 else "utf-8")
            (row,) = csv.reader([text], strict=True)
        except UnicodeDecodeError as error:
            raise InputError("not valid UTF-8", path=path, line=line) from error
        except (csv.Error, ValueError) as error:
            raise InputError(f"not valid CSV: {error}", path=path, line=line) from error
        yield line, row


def read_named_csv(
    path: Path | str, columns: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields ``(line number, column -> cell)`` of a file with a header line.

    Raises:
        InputError: as ``read_csv``, a column of ``columns`` is missing, or a row is short.
    """
    header: list[str] | None = None
    for line, row in read_csv(path):
        if header is None:
            header = row
            missing = [column for column in columns if column not in header]
            if missing:
                raise InputError(f"missing column {', '.join(missing)}", path=path, line=line)
            continue
        if len(row) != len(header):
            reason = f"expected {len(header)} cells, got {len(row)}"
            raise InputError(reason, path=path, line=line)
        yield line, dict(zip(header, row, strict=True))
    if header is None:
        raise InputError("the file is empty", path=path)


def parse_int(cell: str, name: str, *, path: Path | str, line: int) -> int:
    """A whole number, or an ``InputError`` that names the column."""
    if len(cell) <= 20 and cell.isascii() and cell.removeprefix("-").isdecimal():
        return int(cell)
    raise InputError(f"{name} must be a whole number, got {cell[:40]!r}", path=path, line=line)


def parse_float(cell: str, name: str, *, path: Path | str, line: int) -> float:
    """A finite number of 0 or more, or an ``InputError`` that names the column."""
    try:
        value = float(cell) if "_" not in cell else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        reason = f"{name} must be a finite number, 0 or more, got {cell[:40]!r}"
        raise InputError(reason, path=path, line=line)
    return value
