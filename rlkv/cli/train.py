"""``rlkv train`` and ``rlkv tune``."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

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
    scenario_inputs,
)
from rlkv_agents.shipped import UNIVERSAL
from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rlkv.report.schema import Record
    from rlkv_agents.checkpoint import Progress
    from rlkv_agents.train import OnProgress, TrainResult
    from rlkv_envs.scenario import Scenario

FromLog = Annotated[
    str | None,
    typer.Option(
        "--from-log",
        help="Train on the sessions of a log: a folder of `rlkv log export`, the URL of a server,"
        " or the folder of an embedded one; then as with --trace.",
    ),
]
DEFAULT_OUT = Path("runs/default")
#: Folders in that of a run.
BUNDLE, CHECKPOINT = "bundle", "checkpoint"
#: The scenario that a default run is judged on too: where the rules are hard to beat.
SECOND_SCENARIO = "coding"


def register(app: typer.Typer) -> None:
    """Adds ``train`` and ``tune``."""
    app.command("train")(train_command)
    app.command("tune")(tune_command)


def train_command(
    scenario: ScenarioName = None,
    profile: ProfileName = None,
    workload: WorkloadName = None,
    trace: TraceFile = None,
    from_log: FromLog = None,
    rate: Rate = None,
    concurrent: Concurrent = None,
    sessions: Sessions = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="forked-ppo, ppo (MaskablePPO with generalized advantages), or es (evolution"
            " strategies on linear scorers)."
        ),
    ] = "forked-ppo",
    seed: Annotated[int, typer.Option(help="Of everything random in training.")] = 0,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Rounds of learning; without it 20 (ppo 16, es 24), or as many as the run that"
            " goes on."
        ),
    ] = None,
    order_rounds: Annotated[
        int | None,
        typer.Option(
            help="Generations in which the order of victims is learnt before the verbs; without it"
            " 24, 0: by expected remaining pause."
        ),
    ] = None,
    seeds: Seeds = 16,
    as_tree: Annotated[
        bool,
        typer.Option(
            "--as-tree",
            help="Distil what was learnt into decision trees and save those, unless they validate"
            " worse than the rule.",
        ),
    ] = False,
    warm_start: Annotated[
        str,
        typer.Option(
            help="A bundle that was trained elsewhere: its orders of victims are tried before"
            " another is learnt, and its policy is a candidate. `universal` comes with rlkv;"
            " `none`: everything is learnt from the rule."
        ),
    ] = UNIVERSAL,
    out: Annotated[Path, typer.Option(help="Folder of bundle, record and report.")] = DEFAULT_OUT,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run stopped.")] = False,
    references: Annotated[
        bool,
        typer.Option(
            "--references",
            help="Train the other recipes too, each for as long as this one took, and show their"
            " learning curves beside it.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a policy, compare it with every rule on held-out traces, and write a report."""
    import torch

    from rlkv.cli.progress import progress_bars
    from rlkv.cli.trained_trees import explain_training, why_no_trees
    from rlkv.report.write import write_report
    from rlkv_agents.compile_ahead import compiling_ahead
    from rlkv_agents.train import TrainConfig, train
    from rlkv_agents.warm_start import warm_start_bundle

    torch.set_num_threads(1)
    since = time.monotonic()
    config = TrainConfig(recipe, seed, rounds, order_rounds)
    if from_log is not None:
        if not (scenario is None and workload is None and trace is None):
            raise InputError("--from-log replaces --trace, --workload and --scenario")
        trace = _logged(from_log, out, resume)
    built = build_scenario(scenario, profile, workload, trace, rate, concurrent, sessions)
    check_seeds(seeds)
    built.check_fits("test", range(seeds))
    check_writable(out)
    bundle = warm_start_bundle(warm_start)
    saved = 0

    def note(progress: Progress) -> None:
        nonlocal saved
        saved = progress.rounds_done

    try:
        with compiling_ahead(), progress_bars() as on_progress:
            result = train(
                built,
                config,
                out / CHECKPOINT,
                warm_start=bundle,
                resume=resume,
                on_progress=on_progress,
                on_checkpoint=note,
            )
            result, explanation, metadata = explain_training(
                built, result, range(seeds), seed, as_tree, on_progress
            )
            record = _judge(built, result, range(seeds), on_progress)
            record["explanation"] = explanation
            record["reference_curves"] = _references(built, result, references, on_progress)
            if scenario is None and profile is None and workload is None and trace is None:
                record["also"] = [_judge_elsewhere(result, range(seeds), on_progress)]
        record["wall_s"] = time.monotonic() - since
        record["inputs"] = scenario_inputs(built, trace, profile)
        record["bundle"] = BUNDLE
        write_report(record, out, _bundle_files(result, record, built, metadata))
    except KeyboardInterrupt:
        typer.echo(_stopped(out / CHECKPOINT, saved), err=True)
        raise
    _print(record, out, as_json)
    if as_tree and record["explanation"]["saved"] != "trees":
        typer.echo(why_no_trees(record["explanation"]), err=True)


def _logged(source: str, out: Path, resume: bool) -> Path:
    from rlkv.log_traces import LOG_TRACE, trace_from_log

    if resume and (out / LOG_TRACE).exists():
        # The log has grown since; the run goes on with what it began with.
        return out / LOG_TRACE
    check_writable(out)
    path, counts = trace_from_log(source, out)
    typer.echo(f"{path}: {counts.summary()}", err=True)
    return path


def _stopped(checkpoint: Path, saved: int) -> str:
    if saved:
        return f"stopped: {saved} rounds are kept in {checkpoint}, go on with --resume"
    kept = "; an earlier run's is as it was" if checkpoint.exists() else ""
    return f"stopped before the first checkpoint: nothing was kept{kept}"


def tune_command(
    scenario: ScenarioName = None,
    profile: ProfileName = None,
    workload: WorkloadName = None,
    trace: TraceFile = None,
    rate: Rate = None,
    concurrent: Concurrent = None,
    sessions: Sessions = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="Only this rule; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write what was chosen to this JSON file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tune the constants of the rules for a scenario, on the traces that choose snapshots too."""
    from rich.console import Console
    from rich.table import Table

    from rlkv.cli.progress import progress_bars
    from rlkv_agents.rules import RULES, make_rule
    from rlkv_agents.train import tune_all

    built = build_scenario(scenario, profile, workload, trace, rate, concurrent, sessions)
    names = [make_rule(name).name for name in rule] if rule else list(RULES)
    if out is not None:
        check_writable_file(out)
    with progress_bars() as on_progress:
        tuned = tune_all(built, names, on_progress)
    document = {"scenario": built.name, "profile": built.profile.name, "rules": tuned}
    if out is not None:
        write_json(document, out)
    if as_json:
        typer.echo(json.dumps(document))
        return
    table = Table("rule", "constants", "ms/token", "tried", box=None)
    for name, entry in sorted(tuned.items(), key=lambda item: item[1]["validation_s"]):
        constants = ", ".join(f"{k}={v:g}" for k, v in entry["constants"].items()) or "-"
        latency = f"{entry['validation_s'] * 1e3:.2f}"
        table.add_row(name, constants, latency, str(entry["num_candidates"]))
    Console().print(table)


def _judge(
    scenario: Scenario, result: TrainResult, seeds: range, on_progress: OnProgress
) -> dict[str, Any]:
    from rlkv.experiment import evaluation_record, picture_data
    from rlkv_agents.load_sweep import num_load_sweep_runs
    from rlkv_agents.train import counter

    policies = [*result.rules, result.ordered, result.policy]
    count = counter(on_progress, "eval", len(seeds) * len(policies))
    record = evaluation_record(
        scenario, policies, learned=result.policy.name, seeds=list(seeds), on_run=count
    )
    if scenario.arrivals is None:
        sweep = num_load_sweep_runs(policies, seeds=list(seeds)[:4])
        record |= picture_data(scenario, policies, record, counter(on_progress, "sweep", sweep))
    record["learning_curve"] = result.progress.curve
    record["validation_rules_s"] = {
        name: entry["validation_s"] for name, entry in result.progress.tuned.items()
    }
    return record


def _references(
    scenario: Scenario, result: TrainResult, measured: bool, on_progress: OnProgress
) -> dict[str, Any]:
    from rlkv.references import measure_references, stored_references
    from rlkv_agents.train import RECIPES

    settings = result.progress.settings
    if not measured:
        return stored_references(settings)
    others = [recipe for recipe in RECIPES if recipe != settings["recipe"]]
    return measure_references(
        scenario, result.ordered, others, settings["seed"], result.progress.cpu_s, on_progress
    )


def _judge_elsewhere(result: TrainResult, seeds: range, on_progress: OnProgress) -> dict[str, Any]:
    """The same bundle where it was not trained, against rules tuned there."""
    from rlkv.experiment import evaluation_record
    from rlkv_agents.rules import RULES
    from rlkv_agents.train import START_RULE, counter, tune_all, tuned_policies
    from rlkv_envs.scenario import load_scenario

    scenario = load_scenario(SECOND_SCENARIO)
    rules = tuned_policies(tune_all(scenario, list(RULES), on_progress))
    start = next(rule for rule in rules if rule.name == START_RULE)
    # The rule underneath is tuned for this machine; what was learnt is carried over as it is.
    carried = replace(result.policy, rule=start.rule)
    count = counter(on_progress, "eval elsewhere", len(seeds) * (len(rules) + 1))
    record = evaluation_record(
        scenario, [*rules, carried], learned=carried.name, seeds=list(seeds), on_run=count
    )
    return record | {"inputs": scenario_inputs(scenario, None), "bundle": BUNDLE}


def _bundle_files(
    result: TrainResult, record: dict[str, Any], scenario: Scenario, more: dict[str, Any]
) -> dict[str, bytes]:
    from rlkv_agents.bundle import bundle_files

    learned = record["policies"][result.policy.name]
    files = bundle_files(
        result.policy,
        {
            "trained_on": result.progress.settings,
            "profile_range": {
                "host_over_device": scenario.profile.num_host_blocks
                / scenario.profile.num_device_blocks,
                "link_bytes_per_s": scenario.profile.swap_out_bytes_per_s,
                "mean_pause_s": scenario.table.mean_pause_s,
            },
            "recipe": result.progress.settings["recipe"],
            "seed": result.progress.settings["seed"],
            "results": {
                "normalized_latency_s": learned["normalized_latency_s"],
                "ratio_to_best_rule": learned["ratio_to_best_rule"],
                "best_rule": record["best_rule"],
                "seeds": record["seeds"],
            },
            **more,
        },
    )
    return {f"{BUNDLE}/{name}": content for name, content in files.items()}


def _print(record: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(record))
        return
    from rich.console import Console

    from rlkv.report.explanation import about_departures, about_trees, about_validation
    from rlkv.report.findings import about_learning
    from rlkv.tables import policies_table

    console = Console()
    for part in (record, *record.get("also", [])):
        console.print(policies_table(part))
    console.print(about_learning(cast("Record", record)), highlight=False)
    for about in (about_departures, about_validation, about_trees):
        if sentence := about(record["explanation"]):
            console.print(sentence, highlight=False)
    console.print(f"bundle, record and report: {out}")
