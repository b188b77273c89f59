"""``rlkv bundle``: one policy for many machines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from rlkv.cli.output import AsJson, check_writable
from rlkv.cli.suite_options import Scenarios
from rlkv_agents.shipped import UNIVERSAL, bundle_folder
from rlkv_engine.errors import InputError


def register(app: typer.Typer) -> None:
    """Adds ``bundle build`` and ``bundle calibrate``."""
    group = typer.Typer(no_args_is_help=True, help="One policy for many machines.")
    group.command("build")(build_command)
    group.command("calibrate")(calibrate_command)
    app.add_typer(group, name="bundle")


def build_command(
    out: Annotated[Path, typer.Option(help="Folder of the bundle and of what it is made from.")] = (
        Path("runs/universal")
    ),
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    random: Annotated[int, typer.Option(help="Random machines beside the suite's.")] = 24,
    held_out: Annotated[
        int, typer.Option(help="Random machines that decide how sure it must be to leave the rule.")
    ] = 9,
    rounds: Annotated[
        int,
        typer.Option(help="Rounds of learning at most of each specialist on the suite's machines."),
    ] = 32,
    workers: Annotated[
        int | None, typer.Option(help="Processes; without it one for each core.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tune rules and learn specialists for many machines; distil the best into one policy.

    Interrupted, it goes on with what the folder holds.
    """
    import torch

    from rlkv.cli.progress import progress_bars
    from rlkv.provenance import command, commit
    from rlkv_agents.bundle import save_bundle
    from rlkv_agents.jobs import check_workers
    from rlkv_agents.specialists import ADVISED
    from rlkv_agents.universal import UniversalConfig, build_universal

    torch.set_num_threads(1)
    config = UniversalConfig(
        seed=seed,
        num_random=random,
        num_held_out=held_out,
        clip_rounds=rounds,
        kl_rounds=rounds // 4,
    )
    num_workers = check_workers(workers)
    check_writable(out)
    with progress_bars() as on_progress:
        result = build_universal(config, out, num_workers, on_progress)
    document = {
        "recipe": "universal",
        "seed": seed,
        "num_random": random,
        "num_held_out": held_out,
        "rounds": rounds,
        "machines": {
            machine.name: {
                "profile": machine.profile.name,
                "workload": machine.workload.name,
                "rate_per_s": machine.rate_per_s,
                **result.teachers[machine.name],
            }
            for machine in result.machines
        },
        "confidence": {
            "machines": list(result.abstention.machines),
            "levels": list(result.abstention.levels),
            "ratio_to_tuned_rule": result.abstention.ratio.round(4).tolist(),
        },
        "commit": commit(),
        "command": command(),
    }
    save_bundle(out / "bundle", result.policy, document)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("machine", "teacher", "advised / tuned", "teacher / tuned", box=None)
    for machine in result.machines:
        row = result.teachers[machine.name]
        advised, taught = (row["ratios"][name] for name in (ADVISED, row["teacher"]))
        table.add_row(machine.name, row["teacher"], f"{advised:.3f}", f"{taught:.3f}")
    confidence = Table("least confidence", "mean", "worst", title="machines held out", box=None)
    for level, ratios in zip(result.abstention.levels, result.abstention.ratio, strict=True):
        if len(ratios):
            mark = " *" if level == result.abstention.min_confidence else ""
            mean = math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))
            confidence.add_row(f"{level:g}{mark}", f"{mean:.3f}", f"{max(ratios):.3f}")
    for each in (table, confidence):
        Console().print(each)
    Console().print(
        "validation latency over that of the rule tuned for the machine, geometric mean over"
        f" traces; bundle: {out / 'bundle'}"
    )


def calibrate_command(
    bundle: Annotated[
        Path, typer.Option(help="A trained bundle, or `universal`, the one that comes with rlkv.")
    ] = Path(UNIVERSAL),
    out: Annotated[
        Path | None, typer.Option(help="Write calibration.json and calibration.png here.")
    ] = None,
    scenarios: Scenarios = "all",
    seed: Annotated[int, typer.Option(help="Of the decisions that are tried.")] = 0,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Keep the table in the bundle: what a sidecar calls its confidence is then how"
            " often such a verb was no worse than the rule's.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Try departures from the rule against it, by how sure the policy is (some minutes)."""
    from rlkv.cli.progress import progress_bars
    from rlkv.provenance import command, commit, machine
    from rlkv.report.reliability_picture import reliability_png
    from rlkv_agents.bundle import change_metadata, load_bundle
    from rlkv_agents.reliability import departures, reliability
    from rlkv_agents.suite import suite_names
    from rlkv_agents.train import counter
    from rlkv_envs.scenario import PRESETS, load_scenario
    from rlkv_envs.traces.whole_file import write_files

    policy = load_bundle(bundle).policy
    if policy.weights is None:
        raise InputError("no network in it: only a network says how sure it is", path=bundle)
    names = suite_names(scenarios)
    for folder in ([] if out is None else [out]) + ([bundle_folder(bundle)] if store else []):
        check_writable(folder)
    found = {}
    with progress_bars() as on_progress:
        count = counter(on_progress, "calibrate", len(names))
        for name in names:
            found[name] = departures(load_scenario(name), policy, seed)
            count()
    pooled = reliability(list(found.values()))
    if store:
        change_metadata(bundle, {"reliability": pooled})
    suites = dict.fromkeys(str(PRESETS[name].suite) for name in names)
    groups = {
        suite: reliability([each for name, each in found.items() if PRESETS[name].suite == suite])
        for suite in suites
    }
    record = {
        "bundle": policy.name,
        "min_confidence": policy.min_confidence,
        "groups": groups,
        "scenarios": {
            name: {
                "decisions": each.num_decisions,
                "departures": len(each.advantage),
                "advantage": float(each.advantage.mean()) if len(each.advantage) else 0.0,
            }
            for name, each in found.items()
        },
        "commit": commit(),
        "command": command(),
        "machine": machine(),
    }
    if out is not None:
        files = {
            "calibration.json": (json.dumps(record, indent=1) + "\n").encode(),
            "calibration.png": reliability_png(groups, policy.min_confidence),
        }
        write_files(out, files)
    if as_json:
        typer.echo(json.dumps(record))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("machines", "confidence", "departures", "better", "worse", "saved", box=None)
    for suite, rows in groups.items():
        for row in rows:
            low, high = (f"{100.0 * value:.2f}" for value in row["ci95"])
            table.add_row(
                suite, f"{row['low']:g} to {row['high']:g}", str(row["num"]),
                f"{row['better']:.0%}", f"{row['worse']:.0%}",
                f"{100.0 * row['advantage']:.2f} % [{low}, {high}]",
            )  # fmt: skip
    Console().print(table)
    Console().print(f"below {policy.min_confidence:g} the rule answers")
