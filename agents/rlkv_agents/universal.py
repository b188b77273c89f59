"""One policy for many machines: advice on constants, specialists distilled, and orders of victims.

Every run of every machine is kept with the digest of what it depends on, so that a build that is
interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlkv_agents.abstention import Abstention, choose_confidence
from rlkv_agents.advice_runs import known_machines
from rlkv_agents.bundle import load_bundle
from rlkv_agents.cloning import CloneSettings, clone
from rlkv_agents.demonstrations import Teacher
from rlkv_agents.house_rule import House
from rlkv_agents.jobs import Job
from rlkv_agents.machines import random_machines, suite_machines
from rlkv_agents.order_runs import with_orders
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFolder, digest
from rlkv_agents.shipped import UNIVERSAL
from rlkv_agents.specialists import (
    ADVISED,
    TUNED,
    Training,
    choose_teacher,
    learn_specialist,
    specialist_on,
)
from rlkv_agents.suite import TRAINED, Setting, scenario_digest, through_cache, tune_settings
from rlkv_agents.train import OnProgress, counter
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import Scenario

#: Folders of a build.
CANDIDATES, ORDERS, SPECIALISTS, TEACHERS = "candidates", "orders", "specialists", "teachers"


@dataclass(frozen=True, slots=True)
class UniversalConfig:
    """How a universal policy is built; two builds with the same config give the same bundle."""

    seed: int = 0
    num_random: int = 24  #: random machines beside the suite's
    num_held_out: int = 9  #: random machines that only decide how sure the policy must be
    clip_rounds: int = 32  #: at most, of each specialist on the suite's machines, clipped surrogate
    kl_rounds: int = 8  #: the same, penalized surrogate
    settings: CloneSettings = field(default_factory=CloneSettings)

    def __post_init__(self) -> None:
        """Raises ``InputError`` for numbers that cannot be."""
        for name in (
            "seed", "num_random", "num_held_out", "clip_rounds", "kl_rounds",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, eq=False)
class UniversalResult:
    """The policy, and what it was distilled from."""

    policy: AgentPolicy
    machines: Sequence[Scenario]
    #: By machine: ``teacher``, and ``ratios`` to the rule tuned for it of all that were tried.
    teachers: dict[str, dict[str, Any]]
    abstention: Abstention


def build_universal(
    config: UniversalConfig,
    folder: Path,
    num_workers: int = 1,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> UniversalResult:
    """Advise, tune, specialise, choose, distil, order; what ``folder`` holds is not done again."""
    suite = suite_machines()
    others = random_machines(config.num_random, config.seed)
    machines = [*suite, *others]
    # Other seeds, so that they are new to the policy.
    held_out = random_machines(config.num_held_out, config.seed + 1)
    settings = [Setting(machine, TRAINED, "default") for machine in [*machines, *held_out]]
    tuned = {
        name: House(**constants)
        for (name, _), constants in tune_settings(
            settings, [House.name], folder, num_workers, on_progress
        ).items()
    }
    rules = [tuned[machine.name] for machine in machines]
    advice = known_machines(machines, rules, folder / CANDIDATES, num_workers, on_progress)
    start = AgentPolicy(UNIVERSAL, House(), advice=advice)
    how = Training(config.clip_rounds, config.kl_rounds, config.seed)
    known = _learn_specialists(suite, start, how, folder, num_workers, on_progress)
    chosen = _choose_teachers(machines, known, start, tuned, folder, num_workers, on_progress)
    teachers = [
        Teacher(machine, _teacher(machine, start, chosen[machine.name]["teacher"], folder))
        for machine in machines
    ]
    learnt = [chosen[machine.name]["teacher"] != ADVISED for machine in machines]
    start = replace(start, advice=replace(advice, departs=np.array(learnt, np.float64)))
    steps = config.settings.num_passes * len(teachers) + config.settings.num_steps
    policy = clone(
        teachers, start, config.settings, config.seed, counter(on_progress, "distil", steps)
    )
    place = folder / ORDERS
    policy = with_orders(policy, suite, others, config.seed, place, num_workers, on_progress)
    bases = {machine.name: AgentPolicy(TUNED, tuned[machine.name]) for machine in held_out}
    abstention = choose_confidence(policy, held_out, bases, on_progress)
    policy = replace(policy, min_confidence=abstention.min_confidence)
    return UniversalResult(policy, machines, chosen, abstention)


def _learn_specialists(
    machines: Sequence[Scenario],
    start: AgentPolicy,
    how: Training,
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> list[tuple[Scenario, Path]]:
    # Machines that have a specialist, and its bundle.
    if how.num_rounds == 0:
        return []
    places = [(machine, folder / SPECIALISTS / machine.name) for machine in machines]
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {}
    for machine, place in places:
        # A branch takes the longer the more sessions are paused at a time (Little's law).
        num_paused = machine.rate_per_s * machine.table.mean_pause_s
        work = partial(learn_specialist, machine, start.on(machine), how, place)
        wanted[machine.name,] = (
            digest(_identity(machine, start), asdict(how)),
            Job(work, round(how.num_rounds * num_paused)),
        )
    cache = ResultFolder(folder / SPECIALISTS)
    through_cache(wanted, cache, num_workers, partial(on_progress, "specialists"))
    return places


def _choose_teachers(
    machines: Sequence[Scenario],
    known: Sequence[tuple[Scenario, Path]],
    start: AgentPolicy,
    tuned: Mapping[str, House],
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[str, dict[str, Any]]:
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {}
    for machine in machines:
        # A specialist may be right on other machines with the same pauses.
        alike = [(m.name, place) for m, place in known if m.workload == machine.workload]
        rule = tuned[machine.name]
        work = partial(choose_teacher, machine, start.on(machine), rule, alike)
        weights = [_bundle_sha256(place) for _, place in alike]
        inputs = digest(_identity(machine, start), asdict(rule), weights)
        wanted[machine.name,] = (inputs, Job(work, 1 + len(alike)))
    cache = ResultFolder(folder / TEACHERS)
    found = through_cache(wanted, cache, num_workers, partial(on_progress, "teachers"))
    return {key[0]: found[key] for key in wanted}


def _teacher(machine: Scenario, start: AgentPolicy, name: str, folder: Path) -> AgentPolicy:
    advised = start.on(machine)
    if name == ADVISED:
        return advised
    return specialist_on(machine, name, folder / SPECIALISTS / name, advised)


def _identity(machine: Scenario, start: AgentPolicy) -> str:
    # Of all the advice only what it says here.
    return digest(scenario_digest(machine, "validation"), asdict(start.on(machine).rule))


def _bundle_sha256(place: Path) -> str:
    return str(load_bundle(place).metadata["weights_sha256"])
