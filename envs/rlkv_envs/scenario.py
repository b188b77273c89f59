"""A scenario: one machine, one workload, one load. What policies are trained and compared on."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files

import numpy as np

from rlkv_engine.errors import InputError
from rlkv_engine.estimates import PauseTable, fit_pause_table
from rlkv_engine.layout import check_fits
from rlkv_engine.profile import Profile, load_profile
from rlkv_engine.trace import Trace
from rlkv_envs.predicted_pauses import TABLE_SEED, TABLE_SESSIONS, predicted_table
from rlkv_envs.workloads import Split, Workload, make_trace, make_workload
from rlkv_envs.workloads.arrivals import ArrivalProcess, ClosedLoop


@dataclass(frozen=True)
class Scenario:
    """Where a policy is trained and judged.

    ``arrivals`` of None means the workload's own process at ``rate_per_s``; otherwise
    ``rate_per_s`` is only what it is reported as.
    """

    name: str
    profile: Profile
    workload: Workload
    rate_per_s: float
    num_sessions: int
    arrivals: ArrivalProcess | None = None

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

    def check_fits(self, split: Split, seeds: Iterable[int]) -> None:
        """Raises ``InputError`` if a session of these traces is larger than the device pool."""
        for seed in seeds:
            check_fits(self.profile, self.trace(seed, split))

    @cached_property
    def table(self) -> PauseTable:
        """Pause statistics of training sessions: what the operator of this machine would know."""
        rng = np.random.default_rng(TABLE_SEED)
        return fit_pause_table(self.workload.bodies(rng, "train", TABLE_SESSIONS))

    @property
    def predicted_table(self) -> PauseTable:
        """The same by what a predictor knows of each pause as it begins; a second or two, once."""
        return predicted_table(self.workload)

    def at_rate(self, rate_per_s: float) -> Scenario:
        """The same scenario at another load."""
        return replace(self, rate_per_s=rate_per_s)

    def with_sessions(self, num_sessions: int) -> Scenario:
        """The same scenario with longer or shorter traces."""
        return replace(self, num_sessions=num_sessions)


@dataclass(frozen=True, slots=True)
class Preset:
    """A named scenario as data."""

    profile: str
    workload: str
    rate_per_s: float
    num_sessions: int
    description: str
    suite: str | None = None  #: ``trained``, ``unseen``, or None: not in the suite


@dataclass(frozen=True, slots=True)
class KneeSetup:
    """The machine and sessions whose measured knee is the unit of load of other scenarios."""

    profile: str
    workload: str
    num_sessions: int
    rate_per_s: float  #: the knee, as measured

    def scenario(self, name: str) -> Scenario:
        """The setup as a scenario at its knee."""
        return Scenario(
            name,
            load_profile(self.profile),
            make_workload(self.workload),
            self.rate_per_s,
            self.num_sessions,
        )


def _read_presets() -> tuple[dict[str, KneeSetup], dict[str, Preset]]:
    text = files("rlkv_envs").joinpath("scenarios.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    knees = {name: KneeSetup(**entry) for name, entry in tables["knee"].items()}
    presets = {}
    for name, entry in tables["scenario"].items():
        knee = knees[entry["knee"]]
        presets[name] = Preset(
            profile=entry["profile"],
            workload=knee.workload,
            rate_per_s=round(knee.rate_per_s * entry["load"], 6),
            num_sessions=knee.num_sessions,
            description=entry["description"],
            suite=entry.get("suite"),
        )
    return knees, presets


#: Scenarios by name, and the knees that their loads are relative to (``scenarios.toml``).
KNEES, PRESETS = _read_presets()


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
