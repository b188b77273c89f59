"""``rlkv workloads``: the session generators that ship with rlkv."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from rlkv.cli.output import AsJson

NUM_SAMPLED_SESSIONS = 1000


def register(app: typer.Typer) -> None:
    """Adds ``workloads list``, ``workloads show`` and ``workloads scenarios``."""
    workloads = typer.Typer(
        no_args_is_help=True, help="Where sessions come from: the generators that ship."
    )
    workloads.command("list")(list_workloads)
    workloads.command("show")(show_workload)
    workloads.command("scenarios")(list_scenarios)
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


def list_scenarios(as_json: AsJson = False) -> None:
    """List the named scenarios: a workload on a machine, at about the load that it can bear."""
    from rlkv_envs.scenario import PRESETS

    if as_json:
        rows = [{"name": name, **dataclasses.asdict(p)} for name, p in PRESETS.items()]
        typer.echo(json.dumps(rows))
        return
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE)
    table.add_column("scenario", no_wrap=True)
    table.add_column("sessions/s", justify="right")
    table.add_column("sessions", justify="right")
    table.add_column("what it is")
    for name, preset in PRESETS.items():
        table.add_row(name, f"{preset.rate_per_s:g}", str(preset.num_sessions), preset.description)
    Console().print(table)
