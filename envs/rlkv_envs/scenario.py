"""A scenario: one machine, one workload, one load. What policies are trained and compared on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rlkv_engine.errors import InputError
from rlkv_engine.estimates import PauseTable, fit_pause_table
from rlkv_engine.pause_predictor import PausePredictor
from rlkv_engine.profile import Profile, load_profile
from rlkv_engine.trace import Trace
from rlkv_envs.workloads import Split, Workload, make_trace, make_workload
from rlkv_envs.workloads.arrivals import ArrivalProcess, ClosedLoop

#: Sessions and seed from which the pause statistics of a workload are taken.
TABLE_SESSIONS = 2000
TABLE_SEED = 20_240_201


@dataclass(frozen=True)
class Scenario:
    """Where a policy is trained and judged.

    ``arrivals`` of None means the workload's own process at ``rate_per_s``; otherwise
    ``rate_per_s`` is only what it is reported as. With a ``predictor`` of pauses everything that
    would go by the tool's statistics goes by its predictions.
    """

    name: str
    profile: Profile
    workload: Workload
    rate_per_s: float
    num_sessions: int
    arrivals: ArrivalProcess | None = None
    predictor: PausePredictor | None = None

    def __post_init__(self) -> None:
        """Raises ``InputError`` for a rate or a number of sessions that cannot be."""
        if not 0.0 < self.rate_per_s < float("inf"):
            raise InputError(f"rate must be positive, got {self.rate_per_s} sessions/s")
        if self.num_sessions < 1:
            raise InputError(f"a scenario needs at least 1 session, got {self.num_sessions}")

    def trace(self, seed: int, split: Split) -> Trace:
        """The trace of a seed: the same sessions and arrivals for every policy."""
        process = self.arrivals or self.workload.default_arrivals(self.rate_per_s)
        return make_trace(
            self.workload, process, seed=seed, split=split, num_sessions=self.num_sessions
        )

    @cached_property
    def table(self) -> PauseTable:
        """Pause statistics of training sessions: what the operator of this machine would know."""
        rng = np.random.default_rng(TABLE_SEED)
        table = fit_pause_table(self.workload.bodies(rng, "train", TABLE_SESSIONS))
        return replace(table, predictor=self.predictor)

    def at_rate(self, rate_per_s: float) -> Scenario:
        """The same scenario at another load."""
        return replace(self, rate_per_s=rate_per_s)

    def with_predictor(self, predictor: PausePredictor | None) -> Scenario:
        """The same scenario with another predictor of pauses; None: by the tool alone."""
        return replace(self, predictor=predictor)

    def with_sessions(self, num_sessions: int) -> Scenario:
        """The same scenario with longer or shorter traces."""
        return replace(self, num_sessions=num_sessions)


@dataclass(frozen=True, slots=True)
class Preset:
    """A named scenario as data; the rates are about what each machine can just bear."""

    profile: str
    workload: str
    rate_per_s: float
    num_sessions: int
    description: str


PRESETS: dict[str, Preset] = {
    "crossover-slow": Preset(
        "gptj-6b-a100-40gb+link0.125", "crossover", 2.3, 1000,
        "tool times where the verbs differ, GPT-J-6B on an A100 behind 1/8 of its link",
    ),
    "crossover": Preset(
        "gptj-6b-a100-40gb", "crossover", 2.9, 1000,
        "tool times where the verbs differ, GPT-J-6B on an A100",
    ),
    "crossover-tiny-host": Preset(
        "gptj-6b-a100-40gb+host0.1", "crossover", 2.3, 1000,
        "the same with a host tier of a tenth of the device pool",
    ),
    "coding": Preset(
        "llama3-8b-h100", "coding-agent", 0.2, 600,
        "coding agents, Llama-3-8B on an H100, host memory 1x of the device pool",
    ),
    "coding-slow": Preset(
        "llama3-8b-h100-slow", "coding-agent", 0.2, 600,
        "the same behind 1/8 of the link",
    ),
    "coding-host4x-slow": Preset(
        "llama3-8b-h100-host4x-slow", "coding-agent", 0.2, 600,
        "coding agents with four times the host memory behind 1/8 of the link",
    ),
    "infercept": Preset(
        "gptj-6b-a100-40gb", "infercept", 3.0, 2000,
        "the six augmentations of InferCept, GPT-J-6B on an A100",
    ),
    "infercept-slow": Preset(
        "gptj-6b-a100-40gb+link0.125", "infercept", 2.5, 2000,
        "the same behind 1/8 of the link",
    ),
    "chat-bursts": Preset(
        "gptj-6b-a100-40gb", "chat-bursts", 2.0, 2000,
        "chat sessions that arrive in bursts, GPT-J-6B on an A100",
    ),
}  # fmt: skip


def load_scenario(name: str) -> Scenario:
    """A preset by name.

    Raises:
        InputError: unknown name.
    """
    if name not in PRESETS:
        raise InputError(f"unknown scenario {name!r}: one of {', '.join(PRESETS)}")
    preset = PRESETS[name]
    return Scenario(
        name,
        load_profile(preset.profile),
        make_workload(preset.workload),
        preset.rate_per_s,
        preset.num_sessions,
    )


def closed_loop(scenario: Scenario, num_concurrent: int) -> Scenario:
    """The same machine and sessions with ``num_concurrent`` of them at a time, always."""
    return replace(
        scenario,
        name=f"{scenario.name}-closed{num_concurrent}",
        arrivals=ClosedLoop(num_concurrent),
    )
