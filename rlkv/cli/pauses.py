"""``rlkv pauses``: fits a predictor of how long paused sessions stay away, and says its worth."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.output import AsJson, check_writable, check_writable_file, write_json
from rlkv.cli.scenario_options import (
    MAX_SESSIONS,
    TraceFile,
    WorkloadName,
    build_scenario,
    check_seeds,
)
from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rlkv_envs.scenario import Scenario


#: What ``pauses compare`` found.
RECORD_NAME = "pauses.json"
#: Sessions of a workload that ``pauses online`` draws, and how fast they arrive.
ONLINE_SESSIONS, ONLINE_RATE_PER_S = 1000, 0.5


def register(app: typer.Typer) -> None:
    """Adds ``pauses fit``, ``pauses compare`` and ``pauses online``."""
    pauses = typer.Typer(
        no_args_is_help=True,
        help="How long a paused session stays away: fit a predictor, see what it brings.",
    )
    pauses.command("fit")(fit)
    pauses.command("compare")(compare)
    pauses.command("online")(online)
    app.add_typer(pauses, name="pauses")


def fit(
    out: Annotated[Path, typer.Option(help="Write what is known of the pauses to this folder.")],
    workload: WorkloadName = None,
    trace: TraceFile = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Also draw the calibration into this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit on training sessions, and judge on held-out ones beside the table by tool."""
    if workload is None and trace is None:
        raise InputError("say whose pauses: give --trace or --workload")
    scenario = build_scenario(None, None, workload, trace, None, None, None)
    check_writable(out)
    if png is not None:
        check_writable_file(png)
    from rlkv_agents.pause_comparison import held_out_statistics
    from rlkv_agents.pause_files import save_pauses

    table = scenario.predicted_table
    save_pauses(out, table)
    figures = held_out_statistics(scenario.workload, scenario.table, table)
    if png is not None:
        from rlkv.report.calibration import calibration_png
        from rlkv_envs.traces.whole_file import write_files

        write_files(png.parent, {png.name: calibration_png(figures)})
    if as_json:
        typer.echo(json.dumps(figures))
        return
    from rich.console import Console

    from rlkv.pause_tables import statistics_table

    Console().print(statistics_table(figures))
    if table.classes is None:
        typer.echo("nothing found that says more than the tool: what was written is by tool")


def compare(
    out: Annotated[
        Path,
        typer.Option(help=f"Folder of {RECORD_NAME} and its parts; finished parts in it are kept."),
    ],
    scenarios: Annotated[
        str, typer.Option("--scenarios", help="trained, unseen, all, or names with commas between.")
    ] = "all",
    loads: Annotated[
        str, typer.Option(help="Factors on each scenario's rate, with commas between.")
    ] = "1.0,1.1",
    seeds: Annotated[int, typer.Option("--seeds", help="Paired held-out traces.")] = 16,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes; without it one for each core.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The tuned house rule by tool, by predicted class, by the truth; interrupted, it goes on."""
    check_seeds(seeds)
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be 1 or more, got {workers}")
    settings = _settings(scenarios, _factors(loads))
    check_writable(out)
    from rlkv.cli.progress import progress_bars
    from rlkv.provenance import command, commit, machine
    from rlkv_agents.pause_comparison import compare_all, held_out_statistics

    origin = {"commit": commit(), "command": command(), "machine": machine()}
    num_workers = workers or len(os.sched_getaffinity(0))
    with progress_bars() as on_progress:
        on_done = partial(on_progress, "eval")
        rows = compare_all([each for each, _ in settings], seeds, out, num_workers, on_done)
    workloads = {each.workload.name: each for each, _ in settings}
    record: dict[str, Any] = {
        "latency": [
            {
                "scenario": scenario.name, "load": load, "rate_per_s": scenario.rate_per_s,
                "num_sessions": scenario.num_sessions, "num_seeds": seeds, "by": rows[i],
            }
            for i, (scenario, load) in enumerate(settings)
        ],
        "statistics": {
            name: held_out_statistics(each.workload, each.table, each.predicted_table)
            for name, each in workloads.items()
        },
        **origin,
    }  # fmt: skip
    write_json(record, out / RECORD_NAME)
    if as_json:
        typer.echo(json.dumps(record))
        return
    from rich.console import Console

    from rlkv.pause_tables import comparison_table, statistics_table

    for figures in record["statistics"].values():
        Console().print(statistics_table(figures))
    Console().print(comparison_table(record["latency"]))


def online(
    workload: WorkloadName = None,
    trace: TraceFile = None,
    sessions: Annotated[
        int, typer.Option("--sessions", help="Sessions to draw from a workload.")
    ] = ONLINE_SESSIONS,
    as_json: AsJson = False,
) -> None:
    """Judge the predictor that learns while pauses happen beside a table fitted on the first half.

    Each pause of the second half is predicted when it begins, by what was over then.
    """
    if (workload is None) == (trace is None):
        raise InputError("say whose pauses: give --trace or --workload")
    if not 1 <= sessions <= MAX_SESSIONS:
        raise InputError(f"--sessions must be 1 to {MAX_SESSIONS}, got {sessions}")
    from rlkv_envs.traces import read_trace
    from rlkv_envs.workloads import make_trace, make_workload
    from rlkv_service.pauses.progressive import progressive_losses

    if trace is not None:
        served = read_trace(trace)
    else:
        made = make_workload(str(workload))
        arrivals = made.default_arrivals(ONLINE_RATE_PER_S)
        served = make_trace(made, arrivals, seed=0, split="test", num_sessions=sessions)
    figures = progressive_losses(served)
    if as_json:
        typer.echo(json.dumps(figures))
        return
    from rich.console import Console

    from rlkv.pause_tables import online_table

    Console().print(online_table(served.name, figures))


def _settings(scenarios: str, factors: list[float]) -> list[tuple[Scenario, float]]:
    from rlkv_agents.suite import suite_names
    from rlkv_envs.scenario import load_scenario

    named = [load_scenario(name) for name in suite_names(scenarios)]
    return [
        (each.at_rate(factor * each.rate_per_s), factor) for each in named for factor in factors
    ]


def _factors(said: str) -> list[float]:
    factors = []
    for part in said.split(","):
        try:
            factor = float(part)
        except ValueError:
            raise InputError(f"--loads: {part.strip()!r} is not a number") from None
        if not 0.0 < factor <= 100.0:
            raise InputError(f"--loads: a factor must be above 0 and at most 100, got {factor:g}")
        factors.append(factor)
    return factors
