"""``rlkv workloads``: the session generators that ship with rlkv."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

NUM_SAMPLED_SESSIONS = 1000

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Adds ``workloads list`` and ``workloads show``."""
    workloads = typer.Typer(
        no_args_is_help=True, help="Where sessions come from: the generators that ship."
    )
    workloads.command("list")(list_workloads)
    workloads.command("show")(show_workload)
    app.add_typer(workloads, name="workloads")


def list_workloads(as_json: AsJson = False) -> None:
    """List the workloads."""
    from rlkv_envs.workloads import WORKLOADS, make_workload

    loaded = [make_workload(name) for name in WORKLOADS]
    if as_json:
        rows = [{"name": w.name, "description": w.description} for w in loaded]
        typer.echo(json.dumps(rows))
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table("workload", "what it is", box=SIMPLE)
    for workload in loaded:
        table.add_row(workload.name, workload.description)
    Console().print(table)


def show_workload(
    name: Annotated[str, typer.Argument(help="A name from 'rlkv workloads list'.")],
    as_json: AsJson = False,
) -> None:
    """Show a workload's options and the statistics of a thousand sessions drawn from it."""
    from rlkv.cli.trace import statistics_table
    from rlkv_envs.traces.statistics import trace_statistics
    from rlkv_envs.workloads import make_trace, make_workload

    workload = make_workload(name)
    trace = make_trace(
        workload,
        workload.default_arrivals(1.0),
        seed=0,
        split="train",
        num_sessions=NUM_SAMPLED_SESSIONS,
    )
    figures = trace_statistics(trace)
    options: dict[str, object] = {}
    if dataclasses.is_dataclass(workload):
        options = {field.name: field.default for field in dataclasses.fields(workload)}
    if as_json:
        row = {
            "name": workload.name,
            "description": workload.description,
            "tools": list(workload.tools),
            "options": options,
            "sample": figures,
        }
        typer.echo(json.dumps(row))
        return
    from rich.console import Console

    typer.echo(f"{workload.name}: {workload.description}")
    for option, default in options.items():
        typer.echo(f"  {option} = {default}")
    Console().print(statistics_table(figures))
