"""``rlkv eval``: a bundle and the rules on held-out traces; ``--replay`` checks a record."""

from __future__ import annotations

import json
import uuid
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from rlkv.cli.output import AsJson, check_writable
from rlkv.cli.scenario_options import (
    Concurrent,
    ProfileName,
    Rate,
    ScenarioInputs,
    ScenarioName,
    Seeds,
    Sessions,
    TraceFile,
    WorkloadName,
    build_scenario,
    check_seeds,
    rebuild_scenario,
    scenario_inputs,
)
from rlkv_agents.shipped import UNIVERSAL, bundle_from, bundle_place
from rlkv_engine.errors import InputError, RlkvError

if TYPE_CHECKING:
    from rlkv_agents.policy import AgentPolicy
    from rlkv_envs.scenario import Scenario
    from rlkv_service.redis_url import RedisURL

#: The policy that a sidecar is.
SIDECAR = "sidecar"
#: Virtual time waits; a sidecar that does not answer for so long is taken to be gone.
_DEADLINE_MS = 2000.0
#: Two runs of one record agree when every mean is this close, relatively.
AGREEMENT = 1e-9


class ReplayedPolicy(msgspec.Struct):
    """What a replay needs of one policy of a record."""

    rule: str
    constants: dict[str, float]
    #: ``asked``: its verbs came from outside, nobody knows whether they would again.
    source: str = ""


class ReplayedPart(msgspec.Struct):
    """What a replay needs of one scenario of a record."""

    inputs: ScenarioInputs
    seeds: list[int]
    policies: dict[str, ReplayedPolicy]
    learned: str | None = None
    bundle: str = ""


class DisagreementError(RlkvError):
    """A replayed record gave other numbers."""


def register(app: typer.Typer) -> None:
    """Adds ``eval``."""
    app.command("eval")(eval_command)


def eval_command(
    bundle: Annotated[
        Path,
        typer.Option(help="A trained bundle, or `universal`, the one that comes with rlkv."),
    ] = Path(UNIVERSAL),
    scenario: ScenarioName = None,
    profile: ProfileName = None,
    workload: WorkloadName = None,
    trace: TraceFile = None,
    rate: Rate = None,
    concurrent: Concurrent = None,
    sessions: Sessions = None,
    seeds: Seeds = 16,
    tune: Annotated[
        bool, typer.Option(help="Tune the rules for this scenario first (about half a minute).")
    ] = True,
    sidecar: Annotated[
        str | None,
        typer.Option(
            metavar="REDIS_URL",
            help="A sidecar beside the policies: the simulator asks it for every decision.",
        ),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Run a record again and say whether it agrees.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write record and report to this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate policies on the held-out sessions of a scenario or of anybody's trace."""
    if replay is not None:
        _replay(replay, as_json)
        return
    built = build_scenario(scenario, profile, workload, trace, rate, concurrent, sessions)
    check_seeds(seeds)
    built.check_fits("test", range(seeds))
    if out is not None:
        check_writable(out)
    url = None if sidecar is None else _redis_url(sidecar)
    policies, learned = _policies(built, bundle, tune)
    record = _evaluate(built, policies, learned, list(range(seeds)), url)
    record["inputs"] = scenario_inputs(built, trace, profile)
    record["bundle"] = bundle_place(bundle, out or Path())
    if out is not None:
        from rlkv.report.write import write_report

        write_report(record, out)
    if as_json:
        typer.echo(json.dumps(record))
        return
    from rich.console import Console

    from rlkv.tables import policies_table

    console = Console()
    console.print(policies_table(record))
    if url is not None:
        entry = record["policies"][SIDECAR]
        decided = ", ".join(f"{num} {reason}" for reason, num in entry["decisions"].items())
        console.print(
            f"{SIDECAR}: {entry['policy_version']} answered {entry['answered_share']:.2%} of its"
            f" decisions ({decided})"
        )


def _policies(scenario: Scenario, bundle: Path, tune: bool) -> tuple[list[AgentPolicy], str]:
    from rlkv.cli.progress import progress_bars
    from rlkv_agents.bundle import load_bundle
    from rlkv_agents.policy import AgentPolicy
    from rlkv_agents.rules import RULES, make_rule
    from rlkv_agents.train import tune_all, tuned_policies

    loaded = load_bundle(bundle).policy
    if tune:
        with progress_bars() as on_progress:
            policies = tuned_policies(tune_all(scenario, list(RULES), on_progress))
    else:
        policies = [AgentPolicy(name, make_rule(name)) for name in RULES]
    if loaded.name in RULES:
        # A bundle may be made of a rule; beside the rule it needs a name of its own.
        loaded = replace(loaded, name=f"bundle {loaded.name}")
    return [*policies, loaded], loaded.name


def _redis_url(said: str) -> RedisURL:
    from rlkv_service.redis_url import RedisURL

    return RedisURL.parse(said)


def _evaluate(
    scenario: Scenario,
    policies: list[AgentPolicy],
    learned: str | None,
    seeds: list[int],
    sidecar: RedisURL | None = None,
) -> dict[str, Any]:
    from rlkv.asked_engine import rule_of
    from rlkv.cli.progress import progress_bars
    from rlkv.experiment import evaluation_record
    from rlkv_agents.train import counter
    from rlkv_service.asking.in_place import InPlaceAsking
    from rlkv_service.client import Client

    with ExitStack() as stack:
        asked = {}
        if sidecar is not None:
            # Ours is the rule of the bundle: of whatever the sidecar has we only hear the verbs.
            (ours,) = (policy for policy in policies if policy.name == learned)
            policies = [*policies, replace(rule_of(ours, scenario), name=SIDECAR)]
            client = Client(
                sidecar,
                engine_id=f"eval-{uuid.uuid4().hex[:12]}",
                profile_id=scenario.profile.name,
                deadline_ms=_DEADLINE_MS,
            )
            asked[SIDECAR] = InPlaceAsking(stack.enter_context(client).decide)
        on_progress = stack.enter_context(progress_bars())
        count = counter(on_progress, "eval", len(seeds) * len(policies))
        return evaluation_record(
            scenario, policies, learned=learned, seeds=seeds, on_run=count, asked=asked
        )


def _replay(path: Path, as_json: bool) -> None:
    from rlkv.report.record import read_record, record_path
    from rlkv.report.schema import scenarios

    record = read_record(path)
    file = record_path(path)
    rows = [row for part in scenarios(record) for row in _replay_one(dict(part), file)]
    agrees = all(row["agrees"] for row in rows)
    if as_json:
        typer.echo(json.dumps({"record": str(path), "agrees": agrees, "policies": rows}))
    else:
        for row in rows:
            word = "agrees" if row["agrees"] else "DIFFERS"
            typer.echo(
                f"{row['scenario']:<24} {row['policy']:<20} recorded {row['recorded_s'] * 1e3:.4f}"
                f"  replayed {row['replayed_s'] * 1e3:.4f} ms/token  {word}"
            )
        typer.echo(f"the record {'agrees' if agrees else 'does not agree'}")
    if not agrees:
        raise DisagreementError(f"{path}: the replayed numbers differ from the recorded ones")


def _replayed(part: dict[str, Any], file: Path) -> tuple[Scenario, list[AgentPolicy], ReplayedPart]:
    from rlkv_agents.bundle import load_bundle
    from rlkv_agents.policy import AgentPolicy
    from rlkv_agents.rules import make_rule

    try:
        asked = msgspec.convert(part, ReplayedPart)
        scenario = rebuild_scenario(asked.inputs)
        if not asked.seeds:
            raise InputError("at least one seed is needed")
        scenario.check_fits("test", asked.seeds)
        rules = {
            n: make_rule(p.rule, p.constants)
            for n, p in asked.policies.items()
            if p.source != "asked"
        }
    except msgspec.ValidationError as error:
        raise InputError(f"the record does not say what to replay: {error}", path=file) from error
    except InputError as error:
        # Whatever the place, it is the record that sent us there.
        raise InputError(str(error), path=file) from error
    policies = []
    for name, rule in rules.items():
        if name == asked.learned:
            learned = load_bundle(bundle_from(asked.bundle, file.parent)).policy
            policies.append(replace(learned, name=name, rule=rule))
        else:
            policies.append(AgentPolicy(name, rule))
    return scenario, policies, asked


def _replay_one(part: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    scenario, policies, asked = _replayed(part, file)
    again = _evaluate(scenario, policies, asked.learned, asked.seeds)
    rows = []
    for name in again["policies"]:
        entry = part["policies"][name]
        recorded = entry["normalized_latency_s"]["mean"]
        replayed = again["policies"][name]["normalized_latency_s"]["mean"]
        rows.append(
            {
                "scenario": part["scenario"],
                "policy": name,
                "recorded_s": recorded,
                "replayed_s": replayed,
                "agrees": abs(recorded - replayed) <= AGREEMENT * abs(recorded),
            }
        )
    return rows
