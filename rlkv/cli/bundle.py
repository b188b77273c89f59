"""``rlkv bundle``: one policy for many machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rlkv.cli.output import AsJson, check_writable


def register(app: typer.Typer) -> None:
    """Adds ``bundle build``."""
    group = typer.Typer(no_args_is_help=True, help="One policy for many machines.")
    group.command("build")(build_command)
    app.add_typer(group, name="bundle")


def build_command(
    out: Annotated[Path, typer.Option(help="Folder of the bundle and of what it is made from.")] = (
        Path("runs/universal")
    ),
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    random: Annotated[int, typer.Option(help="Random machines beside the suite's.")] = 16,
    rounds: Annotated[int, typer.Option(help="Rounds of learning of each specialist.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Tune rules and learn specialists for many machines; distil the best into one network.

    Interrupted, it goes on with what the folder holds.
    """
    import torch

    from rlkv.cli.progress import progress_bars
    from rlkv.provenance import command, commit
    from rlkv_agents.bundle import save_bundle
    from rlkv_agents.universal import UniversalConfig, build_universal

    torch.set_num_threads(1)
    config = UniversalConfig(seed=seed, num_random=random, num_rounds=rounds)
    check_writable(out)
    with progress_bars() as on_progress:
        result = build_universal(config, out, on_progress)
    machines = {
        teacher.scenario.name: {
            "profile": teacher.scenario.profile.name,
            "workload": teacher.scenario.workload.name,
            "rate_per_s": teacher.scenario.rate_per_s,
            "teacher": name,
            "teacher_over_rule": taught,
            "student_over_rule": learnt,
        }
        for teacher in result.teachers
        for name, taught, learnt in [result.ratios[teacher.scenario.name]]
    }
    document = {
        "recipe": "universal",
        "seed": seed,
        "num_random": random,
        "num_rounds": rounds,
        "machines": machines,
        "commit": commit(),
        "command": command(),
    }
    save_bundle(out / "bundle", result.policy, document)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("machine", "teacher", "teacher / rule", "student / rule", box=None)
    for name, row in machines.items():
        table.add_row(
            name, str(row["teacher"]), f"{row['teacher_over_rule']:.3f}",
            f"{row['student_over_rule']:.3f}",
        )  # fmt: skip
    Console().print(table)
    Console().print(
        "validation latency over that of the rule tuned for the machine, geometric mean of 16"
        f" traces; bundle: {out / 'bundle'}"
    )
