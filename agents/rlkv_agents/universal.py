"""One policy for many machines: tune a rule for each, learn specialists, distil what is best.

Every step of every machine leaves a file, so that a build that is interrupted goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlkv_agents.bundle import load_bundle, save_bundle
from rlkv_agents.cloning import CloneSettings, clone
from rlkv_agents.demonstrations import Teacher
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.machines import random_machines, suite_machines
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import House, make_rule
from rlkv_agents.tune import caution_score, tune, validation_latency_s, validation_traces
from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario
from rlkv_envs.traces.whole_file import write_files

#: Rounds between two validations of a specialist.
VALIDATE_EVERY = 4


@dataclass(frozen=True, slots=True)
class UniversalConfig:
    """How a universal policy is built; two builds with the same config give the same bundle."""

    seed: int = 0
    num_random: int = 16
    num_rounds: int = 24  #: of each specialist; specialists learn on the suite's machines only
    settings: CloneSettings = field(default_factory=CloneSettings)

    def __post_init__(self) -> None:
        """Raises ``InputError`` for numbers that cannot be."""
        for name, least in (("seed", 0), ("num_random", 0), ("num_rounds", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, eq=False)
class UniversalResult:
    """The policy, and what it was distilled from."""

    policy: AgentPolicy
    teachers: Sequence[Teacher]
    #: By machine: the teacher, and its and the student's validation latency over the rule's.
    ratios: dict[str, tuple[str, float, float]]


#: Called as work goes on: what is being done, units done, units in all.
OnProgress = Callable[[str, int, int], None]


def build_universal(
    config: UniversalConfig,
    folder: Path,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> UniversalResult:
    """Tune, specialise, choose and distil; what ``folder`` holds already is not done again."""
    suite = suite_machines()
    machines = [*suite, *random_machines(config.num_random, config.seed)]
    rules = []
    for done, machine in enumerate(machines):
        on_progress("tune", done, len(machines))
        rules.append(_tuned_rule(machine, folder))
    on_progress("tune", len(machines), len(machines))
    teachers, taught, bases = [], [], []
    for done, (machine, rule) in enumerate(zip(machines, rules, strict=True)):
        on_progress("specialists", done, len(machines))
        traces = validation_traces(machine)
        base = validation_latency_s(machine, rule, traces)
        best, latency = rule, base
        if machine in suite and config.num_rounds:
            specialist = _specialist(machine, rule, traces, base, config, folder)
            learnt = validation_latency_s(machine, specialist, traces)
            # A specialist has to be better by more than its own uncertainty.
            if caution_score(learnt, base) < 0.0:
                best, latency = specialist, learnt
        teachers.append(Teacher(machine, best))
        taught.append(_mean_ratio(latency, base))
        bases.append(base)
    on_progress("specialists", len(machines), len(machines))
    steps = config.settings.num_passes * (len(teachers) + config.settings.num_epochs)
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1
        on_progress("distil", taken, steps)

    policy = clone(teachers, config.settings, config.seed, count)
    ratios = {}
    for teacher, ratio, base in zip(teachers, taught, bases, strict=True):
        machine = teacher.scenario
        latency = validation_latency_s(machine, policy, validation_traces(machine))
        ratios[machine.name] = (teacher.policy.name, ratio, _mean_ratio(latency, base))
    return UniversalResult(policy, teachers, ratios)


def _mean_ratio(latency_s: np.ndarray, base_s: np.ndarray) -> float:
    return float(np.exp(np.log(latency_s / base_s).mean()))


def _identity(machine: Scenario, **more: Any) -> dict[str, Any]:
    return {
        "profile": machine.profile.name,
        "workload": machine.workload.name,
        "rate_per_s": machine.rate_per_s,
        "num_sessions": machine.num_sessions,
        **more,
    }


def _tuned_rule(machine: Scenario, folder: Path) -> AgentPolicy:
    path = folder / "rules" / f"{machine.name}.json"
    identity = _identity(machine, grid={name: list(values) for name, values in House.grid.items()})
    if path.exists():
        try:
            kept = json.loads(path.read_bytes())
            if kept["machine"] == identity:
                return AgentPolicy(House.name, make_rule(House.name, kept["constants"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("damaged: remove it to tune again", path=path) from error
    chosen = tune(machine, House.name)
    document = {"machine": identity, "constants": dict(chosen.constants)}
    write_files(path.parent, {path.name: (json.dumps(document, indent=2) + "\n").encode()})
    return AgentPolicy(House.name, chosen.rule)


def _specialist(
    machine: Scenario,
    start: AgentPolicy,
    traces: Sequence[Trace],
    base: np.ndarray,
    config: UniversalConfig,
    folder: Path,
) -> AgentPolicy:
    path = folder / "specialists" / machine.name
    identity = _identity(machine, seed=config.seed, num_rounds=config.num_rounds)
    if (path / "bundle.json").exists():
        bundle = load_bundle(path)
        if bundle.metadata.get("machine") == identity and bundle.policy.rule == start.rule:
            return bundle.policy
    learner = ForkedLearner(machine, start.rule, config.seed)
    best, best_score = replace(start, name=machine.name), 0.0
    for number in range(config.num_rounds):
        learner.run_round(number)
        if (number + 1) % VALIDATE_EVERY and number + 1 < config.num_rounds:
            continue
        policy = learner.policy(machine.name)
        score = caution_score(validation_latency_s(machine, policy, traces), base)
        if score < best_score:
            best, best_score = policy, score
    save_bundle(path, best, {"machine": identity, "validation_score": best_score})
    # What was rounded to float32 is what goes on, now as after an interruption.
    return load_bundle(path).policy
