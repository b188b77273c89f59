"""``rlkv trace``: checks, describes and converts recorded traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.output import AsJson
from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from rlkv_engine.trace import Trace

File = Annotated[
    Path, typer.Argument(help="A trace in any known format, plain or gzip; or a folder of them.")
]
FormatName = Annotated[
    str | None, typer.Option("--format", help="Do not detect the format but take this one.")
]

#: The picture shows this many tools, the most called ones.
MAX_TOOLS_SHOWN = 8
#: Figures of ``describe`` that fit eighty columns; ``--json`` has them all.
_COLUMNS = ("count", "mean", "p10", "p50", "p90", "p99", "max")
_TICKS = (
    (1e-4, "0.1 ms"),
    (1e-3, "1 ms"),
    (1e-2, "10 ms"),
    (0.1, "0.1 s"),
    (1.0, "1 s"),
    (10.0, "10 s"),
    (60.0, "1 min"),
    (600.0, "10 min"),
    (3600.0, "1 h"),
    (36000.0, "10 h"),
)


def register(app: typer.Typer) -> None:
    """Adds ``trace check``, ``trace stats`` and ``trace convert``."""
    trace = typer.Typer(
        no_args_is_help=True, help="Recorded traces: check, describe and convert them."
    )
    trace.command("check")(check)
    trace.command("stats")(stats)
    trace.command("convert")(convert)
    app.add_typer(trace, name="trace")


def check(file: File, format_name: FormatName = None, as_json: AsJson = False) -> None:
    """Read a trace and say what is in it; fails with the place of the first mistake."""
    from rlkv_envs.traces import FORMATS, detect

    name = format_name or detect(file)
    if name in FORMATS and FORMATS[name].read is None:
        figures = _window_figures(file, name)
        summary = f"{figures['num_windows']:,} arrival windows, no sessions"
    else:
        trace = _read(file, name)
        figures = {
            "format": name,
            "num_sessions": trace.num_sessions,
            "num_turns": trace.num_turns,
            "num_roots": len(set(trace.roots)),
            "tools": list(trace.tools),
        }
        summary = f"{trace.num_sessions:,} sessions, {trace.num_turns:,} turns"
    if as_json:
        typer.echo(json.dumps(figures))
        return
    typer.echo(f"{file}: ok, {name}: {summary}")
    if "num_windows" in figures:
        _print(_window_table(figures))


def stats(
    file: File,
    format_name: FormatName = None,
    as_json: AsJson = False,
    png: Annotated[
        Path | None, typer.Option("--png", help="Also draw the pauses by tool into this file.")
    ] = None,
) -> None:
    """Print the distribution of turns, tokens and pauses."""
    from rlkv_envs.traces import FORMATS, detect
    from rlkv_envs.traces.statistics import trace_statistics

    name = format_name or detect(file)
    if name in FORMATS and FORMATS[name].read is None:
        if png is not None:
            raise InputError("arrival windows hold no pauses to draw", path=file)
        figures = _window_figures(file, name)
        table = _window_table(figures)
    else:
        trace = _read(file, name)
        figures = {"format": name, **trace_statistics(trace)}
        table = statistics_table(figures)
        if png is not None:
            _draw_pauses(trace, png)
    if as_json:
        typer.echo(json.dumps(figures))
        return
    _print(table)


def convert(
    file: File,
    out: Annotated[Path, typer.Argument(help="The file to write, in rlkv's own JSONL.")],
    format_name: FormatName = None,
) -> None:
    """Convert a trace to rlkv's own format."""
    from rlkv_envs.traces import detect, write_trace

    trace = _read(file, format_name or detect(file))
    write_trace(trace, out)
    typer.echo(f"{out}: {trace.num_sessions:,} sessions, {trace.num_turns:,} turns")


def statistics_table(figures: dict[str, Any]) -> Table:
    """One row a figure of ``trace_statistics``, with its quantiles."""
    rate = figures["arrival_rate_per_s"]
    caption = (
        f"{figures['num_sessions']:,} sessions of {figures['num_roots']:,} conversations,"
        f" {figures['num_turns']:,} turns, contexts up to {figures['max_context_tokens']:,} tokens;"
        + (" no arrivals" if rate is None else f" {rate:.3g} arrivals/s")
    )
    table = _table(figures["name"], caption)
    for key in ("turns", "input_tokens", "output_tokens", "new_tokens", "shared_prefix_ratio"):
        _add_row(table, key, figures[key])
    for tool, described in figures["pause_s"].items():
        _add_row(table, f"pause_s {tool}", described)
    return table


def _read(file: Path, name: str) -> Trace:
    from rlkv_envs.traces import read_trace

    return read_trace(file, name)


def _window_figures(file: Path, name: str) -> dict[str, Any]:
    from rlkv_envs.traces.servegen_csv import read_windows
    from rlkv_envs.traces.statistics import window_statistics

    return {"format": name, "name": file.name, **window_statistics(read_windows(file))}


def _window_table(figures: dict[str, Any]) -> Table:
    families = ", ".join(f"{count:,} {family}" for family, count in figures["families"].items())
    caption = (
        f"{figures['num_windows']:,} windows of {figures['window_s']:g} s,"
        f" {figures['num_active_windows']:,} with arrivals ({families});"
        f" {figures['mean_rate_per_s']:.3g} arrivals/s; no sessions: an arrival process"
    )
    table = _table(figures["name"], caption)
    for key in ("rate_per_s", "cv"):
        _add_row(table, key, figures[key])
    return table


def _table(title: str, caption: str) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, title=Text(title), caption=Text(caption), padding=(0, 1, 0, 0))
    table.add_column("", overflow="ellipsis", no_wrap=True, min_width=19, max_width=24)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _add_row(table: Table, name: str, described: dict[str, Any]) -> None:
    from rich.text import Text

    cells = [_number(described[column]) if column in described else "-" for column in _COLUMNS]
    table.add_row(Text(name), *cells)


def _number(value: float) -> str:
    """Three to four digits in at most six characters: 120.4k / 1,422 / 0.69 / 8.3e-5."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.2f}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.1f}k"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}".replace("e-0", "e-")


def _print(table: Table) -> None:
    from rich.console import Console

    Console().print(table)


def _draw_pauses(trace: Trace, png: Path) -> None:
    """Draws, for each tool, the share of its pauses that are at most so long."""
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    from rlkv_envs.traces.statistics import pauses_by_tool
    from rlkv_envs.traces.whole_file import whole_file

    pauses = pauses_by_tool(trace)
    if not pauses:
        raise InputError("the trace holds no pauses to draw", path=trace.name)
    figure = Figure(figsize=(8.0, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    colors = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    shown = list(pauses.items())[:MAX_TOOLS_SHOWN]
    smallest = min((float(p[p > 0].min()) for _, p in shown if (p > 0).any()), default=1e-3)
    largest = max(max(float(p.max()) for _, p in shown), smallest * 10)
    for (tool, pause_s), color in zip(shown, colors, strict=False):
        ordered = np.sort(np.maximum(pause_s, smallest))
        share = np.arange(1, len(ordered) + 1) / len(ordered)
        label = f"{tool} ({len(ordered):,}; median {_duration(float(np.median(pause_s)))})"
        axes.step(ordered, share, where="post", color=color, label=label, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_xlim(smallest / 1.3, largest * 1.3)
    ticks = [(at, text) for at, text in _TICKS if smallest / 1.3 <= at <= largest * 1.3]
    axes.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    no_pause = any(not p.all() for _, p in shown)
    axes.set_xlabel("length of the pause" + (" (left edge: none at all)" if no_pause else ""))
    axes.set_ylabel("share of pauses at most so long")
    left_out = len(pauses) - len(shown)
    title = f"{trace.name}: {sum(map(len, pauses.values())):,} pauses by tool"
    axes.set_title(title + (f" ({left_out} rarer tools not shown)" if left_out else ""))
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    with whole_file(png) as stream:
        figure.savefig(stream, format="png")


def _duration(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.3g} min"
    if seconds >= 0.1 or seconds == 0:
        return f"{seconds:.2g} s"
    return f"{seconds * 1000:.2g} ms"
