"""``rlkv pauses``: fits, judges and compares a predictor of how long paused sessions stay away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.output import AsJson, check_writable
from rlkv.cli.scenario_options import (
    ProfileName,
    TraceFile,
    WorkloadName,
    build_scenario,
    check_seeds,
)
from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from rlkv_envs.scenario import Scenario

Folder = Annotated[Path, typer.Argument(help="A folder that 'rlkv pauses fit' has written.")]


def register(app: typer.Typer) -> None:
    """Adds ``pauses fit``, ``pauses eval`` and ``pauses compare``."""
    pauses = typer.Typer(
        no_args_is_help=True,
        help="How long a paused session stays away: fit a predictor, judge it, see what it brings.",
    )
    pauses.command("fit")(fit)
    pauses.command("eval")(eval_command)
    pauses.command("compare")(compare)
    app.add_typer(pauses, name="pauses")


def fit(
    out: Annotated[Path, typer.Option(help="Write the predictor to this folder.")],
    workload: WorkloadName = None,
    trace: TraceFile = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the fit.")] = 0,
) -> None:
    """Fit a predictor on the training sessions of a trace or workload."""
    scenario = _scenario(workload, trace, None)
    check_writable(out)
    from rlkv_agents.pause_files import save_predictor
    from rlkv_agents.pause_predictor import fit_predictor, training_sessions

    predictor = fit_predictor(training_sessions(scenario.workload), seed=seed)
    save_predictor(out, predictor)
    figures = predictor.metadata
    typer.echo(
        f"{out}: fitted on {figures['num_pauses']:,} pauses of {figures['num_sessions']:,} training"
        f" sessions of {figures['trace']}"
    )


def eval_command(
    folder: Folder,
    workload: WorkloadName = None,
    trace: TraceFile = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="Also draw the calibration into this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a predictor on held-out sessions, beside the statistics of each tool."""
    from rlkv_agents.pause_files import load_predictor
    from rlkv_agents.pause_predictor import training_sessions, whole_sessions
    from rlkv_agents.pause_statistics import pause_statistics
    from rlkv_engine.estimates import fit_pause_table

    predictor = load_predictor(folder)
    scenario = _scenario(workload, trace, None)
    table = fit_pause_table(training_sessions(scenario.workload))
    figures = pause_statistics(predictor, table, whole_sessions(scenario.workload, "test"))
    if png is not None:
        from rlkv.report.calibration import calibration_png
        from rlkv_envs.traces.whole_file import whole_file

        with whole_file(png) as stream:
            stream.write(calibration_png(figures))
    if as_json:
        typer.echo(json.dumps(figures))
        return
    from rich.console import Console

    Console().print(statistics_table(figures))


def compare(
    folder: Folder,
    workload: WorkloadName = None,
    trace: TraceFile = None,
    profile: ProfileName = None,
    load: Annotated[
        float, typer.Option(min=1.01, help="Latency over that of an empty engine: sets the rate.")
    ] = 2.0,
    seeds: Annotated[int, typer.Option(help="Paired held-out traces.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Compare the house rule by the tool's statistics, by the predictor and by the truth."""
    check_seeds(seeds)
    from rlkv.cli.progress import progress_bars
    from rlkv_agents.pause_comparison import (
        compare_estimates,
        num_comparison_runs,
        rate_at_latency,
    )
    from rlkv_agents.pause_files import load_predictor

    predictor = load_predictor(folder)
    scenario = _scenario(workload, trace, profile)
    scenario = scenario.at_rate(rate_at_latency(scenario, load))
    done = 0
    with progress_bars() as on_progress:

        def count() -> None:
            nonlocal done
            done += 1
            on_progress("eval", done, num_comparison_runs(seeds))

        compared = compare_estimates(scenario, predictor, num_seeds=seeds, on_run=count)
    compared = {
        "profile": scenario.profile.name, "workload": scenario.workload.name,
        "load": load, "num_sessions": scenario.num_sessions, "num_seeds": seeds, **compared,
    }  # fmt: skip
    if as_json:
        typer.echo(json.dumps(compared))
        return
    from rich.console import Console

    Console().print(comparison_table(compared))


def statistics_table(figures: dict[str, Any]) -> Table:
    """The figures of ``pause_statistics``, the table's beside the predictor's."""
    from rich.box import SIMPLE
    from rich.table import Table

    caption = f"{figures['num_pauses']:,} pauses of {figures['num_sessions']:,} held-out sessions"
    table = Table("", "table", "predictor", box=SIMPLE, title=figures["trace"], caption=caption)
    by_table, by_predictor = figures["table"], figures["predictor"]
    rows = [("explained variance of log pause", "explained_variance"),
            ("log-likelihood", "log_likelihood"), ("AUC of longer than 30 s", "auc_long"),
            ("ordering of two paused sessions", "ordering")]  # fmt: skip
    for label, key in rows:
        table.add_row(label, _number(by_table[key]), _number(by_predictor[key]))
    for key, label in (("pinball", "pinball loss"), ("calibration", "share below")):
        for level in by_table[key]:
            name = f"{label}, q{100 * float(level):g}"
            table.add_row(name, _number(by_table[key][level]), _number(by_predictor[key][level]))
    return table


def comparison_table(compared: dict[str, Any]) -> Table:
    """What ``compare_estimates`` returns, one row an estimate."""
    from rich.box import SIMPLE
    from rich.table import Table

    from rlkv_agents.pause_comparison import ESTIMATES

    title = (
        f"{compared['workload']} on {compared['profile']}, {compared['rate_per_s']:.3g} sessions/s"
    )
    table = Table("pauses by", "ms/token", "ratio", "95 %", box=SIMPLE, title=title)
    for estimate in ESTIMATES:
        row = compared[estimate]
        low, high = row["ci95"]
        table.add_row(
            estimate, f"{row['mean_s'] * 1e3:.2f}", f"{row['ratio']:.3f}", f"{low:.3f}, {high:.3f}"
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _scenario(workload: str | None, trace: Path | None, profile: str | None) -> Scenario:
    if workload is None and trace is None:
        raise InputError("say whose pauses: give --trace or --workload")
    return build_scenario(None, profile, workload, trace, None, None, None)
