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
from rlkv_agents.tune import tune, validation_latency_s, validation_traces
from rlkv_engine.errors import InputError
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
    teachers, ratios = [], {}
    for done, (machine, rule) in enumerate(zip(machines, rules, strict=True)):
        on_progress("specialists", done, len(suite))
        traces = validation_traces(machine)
        base = validation_latency_s(machine, rule, traces)
        best, score = rule, 0.0
        if machine in suite and config.num_rounds:
            specialist = _specialist(machine, rule, config, folder)
            ratio = np.log(validation_latency_s(machine, specialist, traces) / base)
            # A specialist has to be better by more than its own uncertainty.
            score = float(ratio.mean() + 0.5 * ratio.std() / np.sqrt(len(ratio)))
            if score < 0.0:
                best = specialist
        teachers.append(Teacher(machine, best))
        taught = np.exp(np.log(validation_latency_s(machine, best, traces) / base).mean())
        ratios[machine.name] = (best.name, float(taught), float("nan"))
    on_progress("specialists", len(suite), len(suite))
    steps = config.settings.num_passes * (len(teachers) + config.settings.num_epochs)
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1
        on_progress("distil", taken, steps)

    policy = clone(teachers, config.settings, config.seed, count)
    for machine, rule in zip(machines, rules, strict=True):
        traces = validation_traces(machine)
        latency = validation_latency_s(machine, policy, traces)
        base = validation_latency_s(machine, rule, traces)
        name, taught, _ = ratios[machine.name]
        ratios[machine.name] = (name, taught, float(np.exp(np.log(latency / base).mean())))
    return UniversalResult(policy, teachers, ratios)


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
    machine: Scenario, start: AgentPolicy, config: UniversalConfig, folder: Path
) -> AgentPolicy:
    path = folder / "specialists" / machine.name
    identity = _identity(machine, seed=config.seed, num_rounds=config.num_rounds)
    if (path / "bundle.json").exists():
        bundle = load_bundle(path)
        if bundle.metadata.get("machine") == identity and bundle.policy.rule == start.rule:
            return bundle.policy
    learner = ForkedLearner(machine, start.rule, config.seed)
    traces = validation_traces(machine)
    base = validation_latency_s(machine, start, traces)
    best, best_score = replace(start, name=machine.name), 0.0
    for number in range(config.num_rounds):
        learner.run_round(number)
        if (number + 1) % VALIDATE_EVERY and number + 1 < config.num_rounds:
            continue
        policy = learner.policy(machine.name)
        ratio = np.log(validation_latency_s(machine, policy, traces) / base)
        score = float(ratio.mean() + 0.5 * ratio.std() / np.sqrt(len(ratio)))
        if score < best_score:
            best, best_score = policy, score
    save_bundle(path, best, {"machine": identity, "validation_score": best_score})
    # What was rounded to float32 is what goes on, now as after an interruption.
    return load_bundle(path).policy
