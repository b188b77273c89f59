"""One policy for many machines: advice on constants, specialists distilled, and orders of victims.

Every run of every machine is kept with the digest of what it depends on, so that a build that is
interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from rlkv_agents.machines import random_machines, suite_machines, worth_learning
from rlkv_agents.order_runs import with_orders
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFolder, digest
from rlkv_agents.rules import make_rule
from rlkv_agents.shipped import UNIVERSAL
from rlkv_agents.specialists import (
    ADVISED,
    TUNED,
    Training,
    carried,
    choose_teacher,
    learn_specialist,
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
    clip_rounds: int = 24  #: of each specialist on the suite's machines, clipped surrogate
    kl_rounds: int = 8  #: the same, penalized surrogate
    #: Of a specialist on each random machine, clipped surrogate, where the suite's gain anything.
    random_rounds: int = 12
    settings: CloneSettings = field(default_factory=CloneSettings)

    def __post_init__(self) -> None:
        """Raises ``InputError`` for numbers that cannot be."""
        for name in (
            "seed", "num_random", "num_held_out", "clip_rounds", "kl_rounds", "random_rounds",
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
    advice = known_machines(machines, folder / CANDIDATES, num_workers, on_progress)
    settings = [Setting(machine, TRAINED, "default") for machine in [*machines, *held_out]]
    tuned = tune_settings(settings, [House.name], folder, num_workers, on_progress)
    start = AgentPolicy(UNIVERSAL, House(), advice=advice)
    training = {
        machine.name: Training(config.clip_rounds, config.kl_rounds, config.seed)
        for machine in suite
    }
    scores = _learn_specialists(suite, start, training, folder, num_workers, on_progress)
    learners = worth_learning(others, suite, scores)
    for machine in others:
        rounds = config.random_rounds if machine in learners else 0
        training[machine.name] = Training(rounds, 0, config.seed)
    _learn_specialists(machines, start, training, folder, num_workers, on_progress)
    chosen = _choose_teachers(machines, start, tuned, training, folder, num_workers, on_progress)
    teachers = [
        Teacher(machine, _teacher(machine, start, tuned, chosen[machine.name], folder))
        for machine in machines
    ]
    learnt = [chosen[machine.name]["teacher"] not in (ADVISED, TUNED) for machine in machines]
    start = replace(start, advice=replace(advice, departs=np.array(learnt, np.float64)))
    steps = config.settings.num_passes * len(teachers) + config.settings.num_steps
    policy = clone(
        teachers, start, config.settings, config.seed, counter(on_progress, "distil", steps)
    )
    place = folder / ORDERS
    policy = with_orders(policy, suite, others, config.seed, place, num_workers, on_progress)
    rules = {
        machine.name: AgentPolicy(TUNED, make_rule(House.name, tuned[machine.name, House.name]))
        for machine in held_out
    }
    abstention = choose_confidence(policy, held_out, rules, on_progress)
    policy = replace(policy, min_confidence=abstention.min_confidence)
    return UniversalResult(policy, machines, chosen, abstention)


def _learn_specialists(
    machines: Sequence[Scenario],
    start: AgentPolicy,
    training: dict[str, Training],
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[str, float]:
    # By machine: the validation score of its specialist.
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {}
    for machine in machines:
        how = training[machine.name]
        if how.num_rounds == 0:
            continue
        # A branch takes the longer the more sessions are paused at a time (Little's law).
        num_paused = machine.rate_per_s * machine.table.mean_pause_s
        place = folder / SPECIALISTS / machine.name
        work = partial(learn_specialist, machine, start.on(machine), how, place)
        wanted[machine.name,] = (
            _identity(machine, start, how),
            Job(work, round(how.num_rounds * num_paused)),
        )
    cache = ResultFolder(folder / SPECIALISTS)
    found = through_cache(wanted, cache, num_workers, partial(on_progress, "specialists"))
    return {key[0]: float(result["score"]) for key, result in found.items()}


def _choose_teachers(
    machines: Sequence[Scenario],
    start: AgentPolicy,
    tuned: dict[tuple[str, str], dict[str, float]],
    training: dict[str, Training],
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[str, dict[str, Any]]:
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {}
    for machine in machines:
        # A specialist may be right on other machines with the same pauses.
        known = [
            (other.name, folder / SPECIALISTS / other.name)
            for other in machines
            if other.workload == machine.workload and training[other.name].num_rounds > 0
        ]
        constants = tuned[machine.name, House.name]
        work = partial(choose_teacher, machine, start.on(machine), constants, known)
        inputs = [_identity(machine, start, training[machine.name]), constants]
        inputs += [_bundle_sha256(place) for _, place in known]
        wanted[machine.name,] = (digest(*inputs), Job(work, 1 + len(known)))
    cache = ResultFolder(folder / TEACHERS)
    found = through_cache(wanted, cache, num_workers, partial(on_progress, "teachers"))
    return {key[0]: found[key] for key in wanted}


def _teacher(
    machine: Scenario,
    start: AgentPolicy,
    tuned: dict[tuple[str, str], dict[str, float]],
    chosen: dict[str, Any],
    folder: Path,
) -> AgentPolicy:
    name = chosen["teacher"]
    if name == ADVISED:
        return start.on(machine)
    if name == TUNED:
        return AgentPolicy(TUNED, make_rule(House.name, tuned[machine.name, House.name]))
    policy = load_bundle(folder / SPECIALISTS / name).policy
    return policy if name == machine.name else carried(policy, start.on(machine))


def _identity(machine: Scenario, start: AgentPolicy, training: Training) -> str:
    # Of all the advice only what it says here.
    how = [training.clip_rounds, training.kl_rounds, training.seed]
    return digest(scenario_digest(machine, "validation"), asdict(start.on(machine).rule), how)


def _bundle_sha256(place: Path) -> str:
    return str(load_bundle(place).metadata["weights_sha256"])
