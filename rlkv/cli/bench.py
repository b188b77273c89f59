"""``rlkv bench``: how fast and how large rlkv itself is."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.output import AsJson, check_writable_file, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table

#: Where ``bench all`` writes its records.
RESULTS = Path("bench/results")
#: Benches with a picture beside their record.
PICTURES = ("resume", "vllm")


def register(app: typer.Typer) -> None:
    """Adds ``bench``."""
    app.command("bench")(bench_command)


def bench_command(
    name: Annotated[
        str,
        typer.Argument(
            help="sim, env, train, inference, engine, fidelity, swap, resume, sidecar,"
            " decision-api, proxy, answer-age, all of these (all), or one that needs more: gpu,"
            " vllm."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Of fidelity, swap and resume, as of rlkv calibrate; llama-1b-random for a GPU."
        ),
    ] = "tiny",
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help=f"Write the record to this file; with all: to this folder, else to {RESULTS}."
        ),
    ] = None,
) -> None:
    """Measure speed and memory; ratios are measured side by side, in one run."""
    from rich.console import Console

    from rlkv.bench import BENCHES, run_bench
    from rlkv.bench.measure import Size
    from rlkv_envs.traces.whole_file import write_files

    chosen = list(BENCHES) if name == "all" else [name]
    files: dict[str, Path] = {}
    if name == "all":
        files = {each: (out or RESULTS) / f"{each}.json" for each in chosen}
    elif out is not None:
        files = {name: out}
    for file in files.values():
        check_writable_file(file)
    records = []
    errors = Console(stderr=True)
    for each in chosen:
        with errors.status(f"bench {each}") as status:
            say = partial(_say, errors, status, each)
            record = run_bench(each, Size(engine_model=model), say=say)
        records.append(record)
        if each in files:
            write_json(record, files[each])
            if each in PICTURES:
                write_files(files[each].parent, {f"{files[each].stem}.png": _png(record)})
    if as_json:
        typer.echo(json.dumps(records if name == "all" else records[0]))
        return
    Console().print(figures_table(records))
    for record in records:
        if record["bench"] == "vllm":
            from rlkv.vllm_tables import policies_table

            Console().print(policies_table(record))


def _say(errors: Console, status: Status, name: str, text: str) -> None:
    if errors.is_terminal:
        status.update(f"bench {name}: {text}")
    else:
        errors.print(f"bench {name}: {text}", highlight=False)


def _png(record: dict[str, Any]) -> bytes:
    if record["bench"] == "resume":
        from rlkv.report.resume_picture import resume_png

        return resume_png(record)
    from rlkv.report.vllm_picture import vllm_png

    return vllm_png(record)


def figures_table(records: list[dict[str, Any]]) -> Table:
    """One row a figure, with its aim."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("bench", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("figure", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("aim", no_wrap=True)
    for record in records:
        for figure, value in record["figures"].items():
            aim = record["aims"].get(figure)
            said = "" if aim is None else f"{aim['aim']}: {'met' if aim['met'] else 'missed'}"
            table.add_row(record["bench"], figure, _number(value), said)
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
