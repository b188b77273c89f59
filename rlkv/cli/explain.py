"""``rlkv explain``: what a bundle learnt, in tables, a picture and trees that a person can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.output import AsJson, check_writable, check_writable_file, write_json
from rlkv.cli.scenario_options import (
    Concurrent,
    ProfileName,
    Rate,
    ScenarioName,
    Seeds,
    Sessions,
    TraceFile,
    WorkloadName,
    build_scenario,
    check_seeds,
)
from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rlkv_agents.bundle import Bundle
    from rlkv_agents.distilling import Distilled
    from rlkv_envs.scenario import Scenario

RECORD_NAME, PAGE_NAME = "explain.json", "explain.md"


def register(app: typer.Typer) -> None:
    """Adds ``explain``."""
    app.command("explain")(explain_command)


def explain_command(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles: networks, trees or rules.")],
    scenario: ScenarioName = None,
    profile: ProfileName = None,
    workload: WorkloadName = None,
    trace: TraceFile = None,
    rate: Rate = None,
    concurrent: Concurrent = None,
    sessions: Sessions = None,
    seeds: Seeds = 16,
    seed: Annotated[int, typer.Option(help="Of distilling.")] = 0,
    as_tree: Annotated[
        Path | None, typer.Option(help="Save the distilled trees as a bundle in this folder.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write explain.json, explain.md and pictures here.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the page to this file, its pictures beside it.")
    ] = None,
    record_file: Annotated[
        Path | None, typer.Option("--record", help="Write the record to this JSON file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say where a policy departs from its rule, as tables, a picture and decision trees.

    Without options for a scenario each bundle is explained on the one it was trained on.
    """
    from rlkv.cli.progress import progress_bars
    from rlkv.experiment import record_head
    from rlkv.explain import NETWORK, explain, kind_of, num_explain_steps
    from rlkv.provenance import command, commit, machine
    from rlkv_agents.bundle import load_bundle
    from rlkv_agents.train import counter

    check_seeds(seeds)
    if seed < 0:
        raise InputError(f"--seed must be 0 or more, got {seed}")
    if as_tree is not None and len(bundles) > 1:
        raise InputError(f"--as-tree distils one bundle, got {len(bundles)}")
    asked = (scenario, profile, workload, trace, rate, concurrent, sessions)
    loaded = [(path, load_bundle(path)) for path in bundles]
    for path, bundle in loaded:
        if as_tree is not None and kind_of(bundle.policy) != NETWORK:
            raise InputError(f"nothing to distil: it holds {kind_of(bundle.policy)}", path=path)
    built = [
        build_scenario(*asked)
        if any(option is not None for option in asked)
        else _own(path, bundle)
        for path, bundle in loaded
    ]
    for each in built:
        each.check_fits("test", range(seeds))
    for folder in (out, as_tree):
        if folder is not None:
            check_writable(folder)
    for file in (page, record_file):
        if file is not None:
            check_writable_file(file)
    found: list[dict[str, Any]] = []
    distilled: Distilled | None = None
    with progress_bars() as on_progress:
        for (path, bundle), on in zip(loaded, built, strict=True):
            steps = num_explain_steps(bundle.policy.on(on), seeds)
            count = counter(on_progress, f"explaining {on.name}"[:18], steps)
            document, distilled = explain(on, bundle.policy, range(seeds), seed=seed, on_step=count)
            head = record_head(on, "test", range(seeds))
            found.append({**head, "bundle": str(path), "explanation": document})
    record = {
        "version": 1, "explained": found, "commit": commit(), "command": command(),
        "machine": machine(),
    }  # fmt: skip
    if as_tree is not None:
        _save_trees(as_tree, *loaded[0], built[0], distilled)
    if out is not None:
        page, record_file = page or out / PAGE_NAME, record_file or out / RECORD_NAME
    if page is not None:
        _write_page(page, record)
    if record_file is not None:
        write_json(record, record_file)
    if as_json:
        typer.echo(json.dumps(record))
        return
    from rich.console import Console

    from rlkv.explain_text import explanation_parts

    console = Console()
    for one in found:
        console.rule(f"{one['bundle']} on {one['scenario']}", align="left")
        for part in explanation_parts(one["explanation"]):
            console.print(part)


def _own(path: Path, bundle: Bundle) -> Scenario:
    """The scenario that a bundle says it was trained on."""
    from dataclasses import replace

    from rlkv_engine.profile import load_profile
    from rlkv_envs.scenario import PRESETS, load_scenario

    trained_on = bundle.metadata.get("trained_on")
    if not isinstance(trained_on, dict) or not isinstance(trained_on.get("scenario"), str):
        raise InputError(
            "the bundle does not say which scenario it was trained on: give --scenario", path=path
        )
    name = trained_on["scenario"]
    try:
        if name in PRESETS:
            built = load_scenario(name)
        else:
            built = build_scenario(
                None, str(trained_on.get("profile")), str(trained_on.get("workload")), None,
                trained_on.get("rate_per_s"), None, None,
            )  # fmt: skip
            load_profile(built.profile.name)
            built = replace(built, name=name)
        num_sessions, rate = trained_on.get("num_sessions"), trained_on.get("rate_per_s")
        if isinstance(num_sessions, int):
            built = built.with_sessions(num_sessions)
        return built.at_rate(float(rate)) if isinstance(rate, int | float) else built
    except InputError as error:
        raise InputError(
            f"it was trained on {name!r}, which cannot be built here: {error.reason};"
            " give --scenario, --profile or --trace",
            path=path,
        ) from error


def _save_trees(
    folder: Path, path: Path, bundle: Bundle, scenario: Scenario, distilled: Distilled | None
) -> None:
    from rlkv_agents.bundle import save_bundle

    if distilled is None:
        raise InputError(
            f"nothing to distil: on {scenario.name} it never departs from its rule", path=path
        )
    kept = {
        key: bundle.metadata[key]
        for key in ("trained_on", "profile_range", "recipe", "seed")
        if key in bundle.metadata
    }
    save_bundle(folder, distilled.policy, kept | tree_metadata(scenario, distilled))


def tree_metadata(scenario: Scenario, distilled: Distilled) -> dict[str, Any]:
    """What a bundle of trees says of how it was made."""
    return {
        "distilled": {
            "scenario": scenario.name,
            "depth": distilled.depth,
            "validation": distilled.validation,
        }
    }


def _write_page(page: Path, record: dict[str, Any]) -> None:
    from rlkv.explain_text import explanation_markdown, overview_markdown
    from rlkv.report.departures_picture import departures_png
    from rlkv_envs.traces.whole_file import write_files

    files: dict[str, bytes] = {}
    parts = [overview_markdown(record)]
    for number, one in enumerate(record["explained"], 1):
        name = f"{page.stem}.png" if number == 1 else f"{page.stem}-{number}.png"
        png = departures_png(one["explanation"])
        if png is not None:
            files[name] = png
        parts.append(explanation_markdown(one, name if png is not None else None))
    files[page.name] = "\n".join(parts).encode()
    write_files(page.parent, files)
