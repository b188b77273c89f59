"""``rlkv report``: draws the report of a run again from its record, or compares records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlkv_engine.errors import InputError


def register(app: typer.Typer) -> None:
    """Adds ``report``."""
    app.command("report")(report)


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of runs, or the record.json in them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write here instead of into the folder of the record."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Only print one table over all the records.")
    ] = False,
) -> None:
    """Draw the report of a run again from its record; with --compare, put records side by side."""
    from rlkv.report.record import FILE_NAME, read_record, record_path

    if compare:
        if out is not None:
            raise InputError("--compare prints a table, it writes nothing into --out")
        from rich.console import Console

        from rlkv.tables import compare_table

        named = [(_run_name(run), read_record(run)) for run in runs]
        Console().print(compare_table(named))
        return
    if len(runs) > 1:
        raise InputError(f"a report is of one run, got {len(runs)}; --compare takes several")
    from rlkv.report.write import write_report

    record, file = read_record(runs[0]), record_path(runs[0])
    if out is None:
        # A record of another name may lie beside other runs' files.
        out = file.parent if file.name == FILE_NAME else file.with_suffix("")
    if out == file:
        raise InputError("say with --out where the report is to go", path=file)
    typer.echo(write_report(record, out))


def _run_name(run: Path) -> str:
    from rlkv.report.record import FILE_NAME

    resolved = run.resolve()
    return resolved.parent.name if resolved.name == FILE_NAME else resolved.stem
