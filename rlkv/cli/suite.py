"""``rlkv suite``: every policy on every scenario, the knees, and what each mechanism is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.output import AsJson, check_writable, show_record
from rlkv.cli.scenario_options import scenario_inputs
from rlkv.cli.suite_ceiling import ceiling
from rlkv.cli.suite_options import OutFolder, Scenarios, Seeds, Workers, checked, settings_of
from rlkv.cli.suite_train import train
from rlkv_agents.shipped import UNIVERSAL, bundle_place
from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rlkv_agents.suite import Setting

#: Validation traces and width of the bracket of a knee, as scenarios.toml has them.
KNEE_SEEDS, KNEE_TOLERANCE = 8, 0.01


def register(app: typer.Typer) -> None:
    """Adds ``suite run``, ``train``, ``knees``, ``ablate`` and ``ceiling``."""
    suite = typer.Typer(no_args_is_help=True, help="The comparison over all scenarios.")
    suite.command("run")(run)
    suite.command("train")(train)
    suite.command("knees")(knees)
    suite.command("ablate")(ablate)
    suite.command("ceiling")(ceiling)
    app.add_typer(suite, name="suite")


def run(
    out: OutFolder,
    policies: Annotated[
        str,
        typer.Option(
            help="Rules with commas between, tuned for each scenario; RULE:fixed or"
            " RULE:guard_pauses=2+swap_ratio=1 has these constants everywhere."
        ),
    ] = "all",
    bundle: Annotated[
        list[Path],
        typer.Option(
            help="A trained bundle; may be given several times. `universal` comes with rlkv."
        ),
    ] = [Path(UNIVERSAL)],  # noqa: B006
    scenarios: Scenarios = "all",
    seeds: Seeds = 16,
    arrivals: Annotated[
        str,
        typer.Option(
            help="default: each scenario's own; bursts: gaps with a coefficient of variation of 4;"
            " closed: as many sessions at a time as would be there if nobody waited; stamps: those"
            " of --trace."
        ),
    ] = "default",
    trace: Annotated[
        Path | None, typer.Option(help="Its arrival times, stretched to the scenario's rate.")
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate policies on the scenarios of the suite; interrupted, the same command goes on."""
    from rlkv.cli.progress import progress_bars
    from rlkv.suite_record import suite_record, write_suite
    from rlkv.suite_tables import suite_tables
    from rlkv_agents.arrival_variants import check_arrivals
    from rlkv_agents.contestants import contestants
    from rlkv_agents.suite import contest, evaluate_all, suite_names, tune_settings

    num_workers = checked(seeds, workers)
    compared = contestants(policies, bundle)
    names = suite_names(scenarios)
    check_arrivals(arrivals, trace)
    check_writable(out)
    settings = settings_of(names, arrivals, trace)
    rules = [each.name for each in compared if each.policy is None]
    with progress_bars() as on_progress:
        tuned = tune_settings(settings, rules, out, num_workers, on_progress)
        evaluations = contest(settings, compared, tuned)
        figures = evaluate_all(evaluations, range(seeds), out, num_workers, on_progress)
    inputs = {each.scenario.name: _replay_inputs(each, bundle, out) for each in settings}
    record = suite_record(evaluations, figures, compared, range(seeds), inputs)
    write_suite(record, out)
    show_record(record, suite_tables, as_json)


def knees(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A knee of scenarios.toml; else all. With --policies or --bundle also scenarios,"
            " and several with commas between."
        ),
    ] = None,
    policies: Annotated[
        str | None,
        typer.Option(help="As for suite run: what each of these sustains on the same machines."),
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A trained bundle; may be given several times.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results, with --policies.")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Held-out traces, with --policies.")
    ] = KNEE_SEEDS,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Measure the loads again that the suite's are relative to (half a minute each).

    With --policies or --bundle: what every policy sustains, relative to the house rule.
    """
    if policies is None and not bundle:
        _house_knees(name, as_json)
        return

    from rlkv.cli.progress import progress_bars
    from rlkv.suite_record import knees_record, write_knees
    from rlkv.suite_tables import sustained_tables
    from rlkv_agents.contestants import REFERENCE, contestants
    from rlkv_agents.knee_contest import sustained_rates
    from rlkv_agents.suite import contest, tune_settings

    num_workers = checked(seeds, workers)
    if out is None:
        raise InputError("--policies and --bundle need --out, the folder of the results")
    compared = contestants(policies or REFERENCE, bundle or [])
    settings = _knee_settings(name)
    check_writable(out)
    rules = [each.name for each in compared if each.policy is None]
    with progress_bars() as on_progress:
        tuned = tune_settings(settings, rules, out, num_workers, on_progress)
        machines = sustained_rates(
            contest(settings, compared, tuned),
            range(seeds),
            KNEE_TOLERANCE,
            out,
            num_workers,
            on_progress,
        )
    record = knees_record(machines, range(seeds))
    write_knees(record, out)
    show_record(record, sustained_tables, as_json)


def _knee_settings(said: str | None) -> list[Setting]:
    from rlkv_agents.arrival_variants import DEFAULT
    from rlkv_agents.suite import Setting
    from rlkv_envs.scenario import KNEES, PRESETS, load_scenario

    names = list(KNEES) if said is None else [name.strip() for name in said.split(",")]
    for name in names:
        if name not in KNEES and name not in PRESETS:
            raise InputError(
                f"unknown knee or scenario {name!r}: one of {', '.join(KNEES)}, or a scenario"
            )
    # A knee wins over a scenario of the same name: that is the same machine at a load of 1.
    return [
        Setting(
            KNEES[name].scenario(name) if name in KNEES else load_scenario(name), "knee", DEFAULT
        )
        for name in dict.fromkeys(names)
    ]


def _house_knees(name: str | None, as_json: bool) -> None:
    from rlkv.cli.progress import progress_bars
    from rlkv_agents.knee import find_knee
    from rlkv_agents.policy import AgentPolicy
    from rlkv_agents.rules import make_rule
    from rlkv_envs.scenario import KNEES

    if name is not None and name not in KNEES:
        raise InputError(f"unknown knee {name!r}: one of {', '.join(KNEES)}")
    setups = {name: KNEES[name]} if name is not None else KNEES
    rows = []
    with progress_bars() as on_progress:
        for done, (each, setup) in enumerate(setups.items()):
            on_progress("knees", done, len(setups))
            found = find_knee(
                setup.scenario(each),
                AgentPolicy("house", make_rule("house")),
                seeds=range(KNEE_SEEDS),
                tolerance=KNEE_TOLERANCE,
            )
            rows.append(
                {
                    "knee": each,
                    "profile": setup.profile,
                    "workload": setup.workload,
                    "rate_per_s": found.rate_per_s,
                    "recorded_rate_per_s": setup.rate_per_s,
                    "empty_s": found.empty_s,
                    "limit_s": found.limit_s,
                    "tried": [list(point) for point in found.tried],
                }
            )
            on_progress("knees", done + 1, len(setups))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from rich.console import Console

    from rlkv.suite_tables import knees_table

    Console().print(knees_table(rows))


def ablate(
    out: OutFolder,
    scenarios: Scenarios = "all",
    seeds: Seeds = 16,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Switch off the house rule's mechanisms one by one, the rest tuned again each time."""
    from rlkv.cli.progress import progress_bars
    from rlkv.suite_record import ablation_record, write_ablation
    from rlkv.suite_tables import ablation_tables
    from rlkv_agents import ablation
    from rlkv_agents.arrival_variants import DEFAULT
    from rlkv_agents.suite import suite_names

    num_workers = checked(seeds, workers)
    names = suite_names(scenarios)
    check_writable(out)
    settings = settings_of(names, DEFAULT, None)
    with progress_bars() as on_progress:
        found = ablation.ablate(settings, range(seeds), out, num_workers, on_progress)
    record = ablation_record(found, range(seeds))
    write_ablation(record, out)
    show_record(record, ablation_tables, as_json)


def _replay_inputs(setting: Setting, bundles: list[Path], out: Path) -> dict[str, Any]:
    # For `rlkv eval --replay`; nothing where it could not repeat the run.
    if setting.arrivals not in ("default", "closed") or len(bundles) > 1:
        return {}
    inputs: dict[str, Any] = {"inputs": scenario_inputs(setting.scenario, None)}
    if bundles:
        inputs["bundle"] = bundle_place(bundles[0], out)
    return inputs
