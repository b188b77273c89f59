"""Options that choose a scenario, shared by train, tune and eval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rlkv_engine.profile import Profile
    from rlkv_envs.scenario import Scenario
    from rlkv_envs.workloads import Workload

#: What one trace, and one evaluation, may hold: a slip of the keyboard should not fill the memory.
MAX_SESSIONS = 1_000_000
MAX_SEEDS = 10_000
DEFAULT_SCENARIO = "crossover-slow"
#: Replayed traces: sessions in an evaluation, machine, and the limits they are brought to.
_TRACE_SESSIONS = 400
_TRACE_PROFILE = "llama3-8b-h100"
#: A session may hold this share of the device pool at most.
DEVICE_SHARE = 8
MIN_CONTEXT_TOKENS, MAX_CONTEXT_TOKENS = 16, 32768
MAX_TURNS = 12
MAX_PAUSE_S = 600.0

ScenarioName = Annotated[
    str | None,
    typer.Option(
        "--scenario",
        help=f"A named scenario (rlkv workloads scenarios); without one {DEFAULT_SCENARIO}.",
    ),
]
ProfileName = Annotated[
    str | None,
    typer.Option(
        "--profile", help="A shipped profile's name (rlkv profiles list), or a TOML file."
    ),
]
WorkloadName = Annotated[
    str | None, typer.Option("--workload", help="A workload's name (rlkv workloads list).")
]
TraceFile = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Replay the sessions of this trace instead: their first 12 turns, contexts scaled to"
        " the machine, pauses up to 10 minutes.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        help="Arrivals, sessions per second; without one the scenario's, or what fills the machine"
        " one and a half times.",
    ),
]
Concurrent = Annotated[
    int | None, typer.Option("--concurrent", help="Closed loop: so many sessions at a time.")
]
Sessions = Annotated[
    int | None,
    typer.Option(
        "--sessions", help=f"Sessions in a trace; without it the scenario's, or {_TRACE_SESSIONS}."
    ),
]
Seeds = Annotated[int, typer.Option("--seeds", help="Paired held-out traces to judge on.")]


def build_scenario(
    name: str | None,
    profile: str | None,
    workload: str | None,
    trace: Path | None,
    rate_per_s: float | None,
    num_concurrent: int | None,
    num_sessions: int | None,
) -> Scenario:
    """The scenario that a command line asks for.

    Raises:
        InputError: options that contradict each other, or a value that cannot be.
    """
    from rlkv_engine.profile import load_profile
    from rlkv_envs.scenario import Scenario, closed_loop, load_scenario
    from rlkv_envs.workloads import make_workload

    if trace is not None and (workload is not None or name is not None):
        raise InputError("--trace replaces --workload and --scenario: give one of them")
    if rate_per_s is not None and num_concurrent is not None:
        raise InputError("--rate and --concurrent exclude each other")
    if trace is not None:
        machine = load_profile(profile or _TRACE_PROFILE)
        replayed = _replayed(trace, machine)
        rate = rate_per_s
        if rate is None:
            rate = _fitting_rate(replayed, machine.device_tokens)
        scenario = Scenario(f"trace:{trace.name}", machine, replayed, rate, _TRACE_SESSIONS)
    else:
        scenario = load_scenario(name or DEFAULT_SCENARIO)
        if profile is not None:
            scenario = replace(scenario, profile=load_profile(profile))
        if workload is not None:
            scenario = replace(scenario, workload=make_workload(workload))
        if profile is not None or workload is not None:
            rate = rate_per_s
            if rate is None:
                rate = _fitting_rate(scenario.workload, scenario.profile.device_tokens)
            label = f"{scenario.workload.name}@{scenario.profile.name}"
            scenario = replace(scenario, name=label).at_rate(rate)
        elif rate_per_s is not None:
            scenario = scenario.at_rate(rate_per_s)
    if num_sessions is not None:
        if num_sessions > MAX_SESSIONS:
            raise InputError(f"--sessions must be at most {MAX_SESSIONS}, got {num_sessions}")
        scenario = scenario.with_sessions(num_sessions)
    if num_concurrent is not None:
        scenario = closed_loop(scenario, num_concurrent)
    return scenario


class ScenarioInputs(msgspec.Struct):
    """What ``rebuild_scenario`` needs, as it stands in a record."""

    name: str
    profile: str  #: a shipped name, or the TOML that ``--profile`` named
    workload: str
    trace: str | None
    rate_per_s: float
    num_concurrent: int | None
    num_sessions: int


def scenario_inputs(
    scenario: Scenario, trace: Path | None, profile: str | None = None
) -> dict[str, object]:
    """``ScenarioInputs`` as JSON values; ``trace`` and ``profile`` are what the options said."""
    from rlkv_envs.workloads.arrivals import ClosedLoop

    arrivals = scenario.arrivals
    inputs = ScenarioInputs(
        name=scenario.name,
        profile=profile or scenario.profile.name,
        workload=scenario.workload.name,
        trace=None if trace is None else str(trace),
        rate_per_s=scenario.rate_per_s,
        num_concurrent=arrivals.num_concurrent if isinstance(arrivals, ClosedLoop) else None,
        num_sessions=scenario.num_sessions,
    )
    return msgspec.structs.asdict(inputs)


def rebuild_scenario(inputs: ScenarioInputs) -> Scenario:
    """The scenario of a record.

    Raises:
        InputError: something it names is not there any more.
    """
    trace = None if inputs.trace is None else Path(inputs.trace)
    built = build_scenario(
        None,
        inputs.profile,
        None if trace is not None else inputs.workload,
        trace,
        inputs.rate_per_s,
        None,
        inputs.num_sessions,
    )
    if inputs.num_concurrent is not None:
        from rlkv_envs.scenario import closed_loop

        built = closed_loop(built, inputs.num_concurrent)
    return replace(built, name=inputs.name)


def check_seeds(seeds: int) -> None:
    """Raises ``InputError`` unless there is a trace to judge on: before any work is done."""
    if not 1 <= seeds <= MAX_SEEDS:
        raise InputError(f"--seeds must be 1 to {MAX_SEEDS}, got {seeds}")


def _replayed(path: Path, machine: Profile) -> Workload:
    from rlkv_envs.traces import read_trace
    from rlkv_envs.workloads import SPLITS, TraceWorkload

    # Contexts are rescaled to what the device can serve, never filtered; whole sessions of hundreds
    # of turns, with pauses of hours, would make every run one transient.
    max_context_tokens = min(machine.device_tokens // DEVICE_SHARE, MAX_CONTEXT_TOKENS)
    if max_context_tokens < MIN_CONTEXT_TOKENS:
        raise InputError(
            f"{machine.num_device_blocks} blocks of {machine.block_size} tokens are too few to"
            f" replay a trace: 1/{DEVICE_SHARE} of them must hold {MIN_CONTEXT_TOKENS} tokens",
            path=f"profile {machine.name}",
        )
    workload = TraceWorkload(
        read_trace(path),
        max_context_tokens=max_context_tokens,
        max_turns=MAX_TURNS,
        max_pause_s=MAX_PAUSE_S,
    )
    try:
        for split in SPLITS:
            workload.pool(split)
    except InputError as error:
        raise InputError(error.reason, path=path) from error
    return workload


def _fitting_rate(workload: Workload, device_tokens: int) -> float:
    """Arrivals at which the sessions that overlap hold about 1.5 times the device pool.

    Little's law over pauses alone: sessions in the system = rate * mean pause time of a session.
    """
    import numpy as np

    bodies = workload.bodies(np.random.default_rng(0), "train", 200)
    paused_s = max(float(bodies.total_pause_s.mean()), 1.0)
    context = float((bodies.input_tokens + bodies.output_tokens).mean())
    return 1.5 * device_tokens / (context * paused_s)
