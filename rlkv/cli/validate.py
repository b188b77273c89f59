"""``rlkv validate``: what InferCept published against what our scheduler does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.output import AsJson, check_writable_file, write_json

if TYPE_CHECKING:
    from rich.table import Table

#: File that ``--out`` writes.
RECORD_NAME = "validation.json"
_MARKS = {"comes out": "=", "direction only": "~", "does not": "x", "not measured": "?"}


def register(app: typer.Typer) -> None:
    """Adds ``validate``."""
    app.command("validate")(validate_command)


def validate_command(
    out: Annotated[Path | None, typer.Option(help=f"Folder to write {RECORD_NAME} to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the experiments of InferCept and compare the figures (about a minute)."""
    from rich.console import Console

    from rlkv.validation import validate

    if out is not None:
        check_writable_file(out / RECORD_NAME)
    errors = Console(stderr=True)
    with errors.status("compiling the engine") as status:
        record = validate(on_run=status.update)
    if out is not None:
        write_json(record, out / RECORD_NAME)
    if as_json:
        typer.echo(json.dumps(record, allow_nan=False))
        return
    Console().print(_table(record))


def _table(record: dict[str, Any]) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    caption = ", ".join(f"{mark} {verdict}" for verdict, mark in _MARKS.items())
    table = Table("shape", "published", box=SIMPLE, padding=(0, 1, 0, 0), caption=caption)
    for profile in record["figures"]:
        table.add_column(profile, justify="right", overflow="fold", width=12)
    for shape in record["shapes"]:
        cells = []
        for profile in record["figures"]:
            value, mark = shape["ours"][profile], _MARKS[shape["verdict"][profile]]
            cells.append(f"{_number(value)} {mark}")
        table.add_row(shape["shape"], shape["published"], *cells)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
