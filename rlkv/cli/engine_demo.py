"""``rlkv engine demo``: every policy in turn on the real engine."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.model_options import Device, Dtype, Model, Threads
from rlkv.cli.output import AsJson, check_writable
from rlkv.cli.server_place import REDIS_VARIABLE
from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_OUT = Path("runs/engine-demo")
DEFAULT_POLICIES = "house,preserve,swap,discard,lru,two-tier-lru"
#: Of the calibration where no profile is given: quick rather than right.
_ROUNDS, _NUM_LOADS = 1, 12
#: Sessions where nobody says how many, and what all policies may take together, about.
LEAST_SESSIONS, MOST_SESSIONS, _BUDGET_S = 8, 24, 30.0


def affordable_sessions(rate_per_s: float, concurrent: float, num_policies: int) -> int:
    """Sessions of a demo, fewer where sessions arrive slowly because the machine is slow.

    A run takes as long as its arrivals do, and twice what is in the system at a time after them.
    """
    num = int(_BUDGET_S / num_policies * rate_per_s - 2.0 * concurrent)
    return min(max(num, LEAST_SESSIONS), MOST_SESSIONS)


def demo_command(
    model: Model = "tiny",
    profile: Annotated[
        str | None,
        typer.Option(help="A file of rlkv calibrate; without it a quick one is measured first."),
    ] = None,
    workload: Annotated[str, typer.Option(help="Whose sessions (rlkv workloads list).")] = (
        "crossover"
    ),
    sessions: Annotated[
        int | None,
        typer.Option(
            help="Sessions of the trace; without it 24, or as few as 8 where the policies would"
            " take longer than half a minute together."
        ),
    ] = None,
    concurrent: Annotated[
        float, typer.Option(help="Sessions in the system at a time, about.")
    ] = 8.0,
    memory: Annotated[
        float, typer.Option(help="Device pool as a share of what these want to hold.")
    ] = 0.4,
    context: Annotated[int, typer.Option(help="Longest context, tokens.")] = 512,
    policies: Annotated[
        str,
        typer.Option(
            "--policies",
            "--policy",
            help="Rules with commas between, each with its plain constants; `sidecar` is asked"
            " over Redis.",
        ),
    ] = DEFAULT_POLICIES,
    redis: Annotated[
        str | None,
        typer.Option(
            envvar=REDIS_VARIABLE,
            help="Where a sidecar is asked; without it one of its own is started, with the first"
            " bundle.",
        ),
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A trained bundle; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the trace.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="Folder of the record and the picture.")] = DEFAULT_OUT,
    as_json: AsJson = False,
) -> None:
    """Run the same sessions under every policy on a real model, and compare latencies and tokens.

    Contexts and pauses of the workload are scaled to the model and the machine. Exit code 1 if a
    session's tokens depend on the policy.
    """
    from rich.console import Console

    from rlkv.calibration import Sizes, calibrate
    from rlkv.cli.progress import progress_bars
    from rlkv.engine_demo import SIDECAR, Sidecar, demonstrate
    from rlkv.engine_setup import load
    from rlkv.miniature_scenario import miniature_scenario
    from rlkv.own_sidecar import own_sidecar
    from rlkv.report.engine_picture import demonstration_png
    from rlkv_agents.bundle import load_bundle
    from rlkv_agents.policy import AgentPolicy
    from rlkv_agents.rules import RULES, make_rule
    from rlkv_agents.shipped import bundle_folder
    from rlkv_engine.profile import load_profile
    from rlkv_envs.traces.whole_file import write_files
    from rlkv_service.redis_url import RedisURL

    if (sessions is not None and sessions < 1) or concurrent <= 0 or memory <= 0:
        raise InputError("--sessions, --concurrent and --memory must be above 0")
    names = [name.strip() for name in policies.split(",") if name.strip()]
    for name in names:
        if name not in (*RULES, SIDECAR):
            raise InputError(f"unknown policy {name!r}: one of {', '.join((*RULES, SIDECAR))}")
    chosen = [AgentPolicy(name, make_rule(name)) for name in names if name != SIDECAR]
    folders = [Path("universal")] if bundle is None else bundle
    learned = [load_bundle(bundle_folder(folder)).policy for folder in folders]
    if SIDECAR in names and not learned:
        raise InputError("a sidecar needs a --bundle")
    url = None if redis is None else RedisURL.parse(redis)
    check_writable(out)
    loaded = load(model, device, dtype, threads)
    with ExitStack() as stack:
        on_progress = stack.enter_context(progress_bars())
        sidecar = None
        if SIDECAR in names:
            if url is None:
                url = stack.enter_context(own_sidecar(folders[0]))
            sidecar = Sidecar(url, learned[0])
        if profile is None:
            measured = calibrate(
                loaded, Sizes(), rounds=_ROUNDS, num_loads=_NUM_LOADS, on_progress=on_progress
            ).profile
        else:
            measured = load_profile(profile)
        scenario = miniature_scenario(
            workload,
            measured,
            max_context_tokens=min(context, loaded.config.max_position_embeddings),
            num_sessions=sessions or MOST_SESSIONS,
            num_concurrent=concurrent,
            memory=memory,
        )
        compared = [*chosen, *learned]
        if sessions is None:
            runs = len(compared) + (sidecar is not None)
            scenario = scenario.with_sessions(
                affordable_sessions(scenario.rate_per_s, concurrent, runs)
            )
        demonstration = demonstrate(loaded, scenario, compared, seed, on_progress, sidecar)
    record = demonstration.record()
    write_files(
        out,
        {
            "demo.json": (json.dumps(record, indent=2) + "\n").encode(),
            "demo.png": demonstration_png(record),
        },
    )
    if as_json:
        typer.echo(json.dumps(record))
    else:
        console = Console()
        console.print(_table(record))
        console.print(f"{out / 'demo.json'} and {out / 'demo.png'}", soft_wrap=True)
    if not demonstration.same_tokens:
        names_of = ", ".join(demonstration.other_tokens)
        typer.echo(f"rlkv: sessions generate other tokens under {names_of}", err=True)
        raise typer.Exit(1)


def _table(record: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{record['num_sessions']} sessions of {record['workload']} on {record['model']},"
        f" {record['num_device_blocks']} + {record['num_host_blocks']} blocks"
    )
    table.add_column("policy")
    for column in ("mean", "p90", "resume p50", "p90", "recomputed", "blocks out", "in"):
        table.add_column(column, justify="right")
    ordered = sorted(
        record["policies"].items(), key=lambda item: item[1]["normalized_latency_s"]["mean"]
    )
    for name, figures in ordered:
        token, resume = figures["normalized_latency_s"], figures["resume_latency_s"]
        table.add_row(
            name,
            f"{1e3 * token['mean']:.2f}",
            f"{1e3 * token['p90']:.2f}",
            f"{1e3 * resume['p50']:.1f}",
            f"{1e3 * resume['p90']:.1f}",
            f"{figures['recompute_ratio']:.1%}",
            str(figures["blocks_out"]),
            str(figures["blocks_in"]),
        )
    same = "the same" if record["same_tokens"] else "NOT the same"
    table.caption = (
        "ms a generated token, pauses excluded; ms from tool return to the next token."
        f" Every session's tokens are {same} under every policy."
    )
    if (sidecar := record.get("sidecar")) is not None:
        decided = ", ".join(f"{num} {reason}" for reason, num in sidecar["decisions"].items())
        table.caption += (
            f" The sidecar answered {sidecar['answered_share']:.1%} of its decisions in time"
            f" ({decided}): {sidecar['answered_share_at_calls']:.1%} of those about a pause that"
            f" begins, {sidecar['answered_share_when_short']:.1%} of those when memory was short."
            f" It was told of {sidecar['num_outcomes']} outcomes."
        )
    return table
