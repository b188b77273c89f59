"""Where a command's results go: the option ``--json``, and files that can be written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def check_writable(folder: Path) -> None:
    """Makes a folder; raises ``InputError`` if nothing can be written there: before any work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write there: {error.strerror}", path=folder) from error


def check_writable_file(path: Path) -> None:
    """The same for a file, which may be there already."""
    if path.is_dir():
        raise InputError("cannot write there: it is a folder", path=path)
    check_writable(path.parent)


def write_json(document: dict[str, Any], path: Path) -> None:
    """Writes a JSON file whole or not at all."""
    from rlkv_envs.traces.whole_file import write_files

    content = json.dumps(document, indent=2, allow_nan=False) + "\n"
    write_files(path.parent, {path.name: content.encode()})


def show_record(
    record: dict[str, Any], tables: Callable[[dict[str, Any], int], list[Table]], as_json: bool
) -> None:
    """Prints a record as JSON, or as tables of the terminal's width."""
    if as_json:
        typer.echo(json.dumps(record))
        return
    from rich.console import Console

    for table in tables(record, Console().width):
        Console().print(table)
