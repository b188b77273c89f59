"""The comparison over the suite's scenarios: rules are tuned, then everybody is evaluated.

Every finished part is kept in the folder with the digest of what it depends on, so that an
interrupted run goes on, and a changed bundle, constant, scenario or engine is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlkv_agents.contestants import Contestant
from rlkv_agents.evaluate import run_policy, summarize
from rlkv_agents.jobs import Job, run_jobs
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFile, ResultFolder, digest, source_digest
from rlkv_agents.rules import make_rule
from rlkv_agents.train import OnProgress
from rlkv_agents.tune import (
    HALVING,
    MAX_SCREENED,
    NUM_FINALISTS,
    NUM_SCREENING,
    NUM_VALIDATION,
    grid_of,
    tune,
)
from rlkv_engine.config import EngineConfig
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import PRESETS, Scenario, load_scenario
from rlkv_envs.workloads import Split

TRAINED, UNSEEN = SUITES = ("trained", "unseen")
PARTS, TUNED = "parts", "tuned.json"


@dataclass(frozen=True, slots=True)
class Setting:
    """A scenario of the suite under the arrivals it is run with."""

    scenario: Scenario
    suite: str  #: one of ``SUITES``
    arrivals: str


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A policy to be run on a setting; ``key`` tells its result apart from the others."""

    key: tuple[str, ...]
    setting: Setting
    policy: AgentPolicy
    config: EngineConfig | None = None


def suite_names(said: str = "all") -> list[str]:
    """Scenarios of the suite: ``trained``, ``unseen``, ``all``, or names with commas between.

    Raises:
        InputError: a name that is no scenario or in no suite.
    """
    known = [name for name, preset in PRESETS.items() if preset.suite in SUITES]
    if said == "all":
        return known
    if said in SUITES:
        return [name for name in known if PRESETS[name].suite == said]
    names = list(dict.fromkeys(name.strip() for name in said.split(",")))
    for name in names:
        load_scenario(name)
        if name not in known:
            raise InputError(f"scenario {name!r} is not in the suite: {', '.join(known)}")
    return names


def tune_settings(
    settings: Sequence[Setting],
    rules: Sequence[str],
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[tuple[str, str], dict[str, float]]:
    """Constants of every rule for every setting: (scenario, rule) -> constants."""
    cache = ResultFile(folder / TUNED)
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {
        (setting.scenario.name, rule, setting.arrivals): (
            tuning_digest(setting.scenario, rule),
            Job(partial(_tuned, setting.scenario, rule), tuning_cost(rule)),
        )
        for setting in settings
        for rule in rules
    }
    found = through_cache(wanted, cache, num_workers, partial(on_progress, "tune"))
    return {(key[0], key[1]): result["constants"] for key, result in found.items()}


def evaluate_all(
    evaluations: Sequence[Evaluation],
    seeds: Sequence[int],
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[tuple[str, ...], dict[str, Any]]:
    """The figures (``evaluate.summarize``) of every evaluation on held-out traces, by key."""
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {
        each.key: (
            digest(
                scenario_digest(each.setting.scenario, "test"),
                list(seeds),
                policy_digest(each.policy, each.setting.scenario),
                asdict(each.config or EngineConfig()),
            ),
            Job(
                partial(_figures, each.setting.scenario, each.policy, seeds, each.config),
                len(seeds),
            ),
        )
        for each in evaluations
    }
    cache = ResultFolder(folder / PARTS)
    return through_cache(wanted, cache, num_workers, partial(on_progress, "eval"))


def contest(
    settings: Sequence[Setting],
    contestants: Sequence[Contestant],
    tuned: Mapping[tuple[str, str], Mapping[str, float]],
) -> list[Evaluation]:
    """Everybody on every setting, rules with the constants that were tuned for it."""
    evaluations = []
    for setting in settings:
        name = setting.scenario.name
        for each in contestants:
            policy = each.policy
            if policy is None:
                rule = make_rule(each.name, tuned[name, each.name])
                policy = AgentPolicy(each.name, rule)
            evaluations.append(Evaluation((name, each.name, setting.arrivals), setting, policy))
    return evaluations


def through_cache(
    wanted: Mapping[tuple[str, ...], tuple[str, Job]],
    cache: ResultFile | ResultFolder,
    num_workers: int,
    on_done: Callable[[int, int], None],
) -> dict[tuple[str, ...], dict[str, Any]]:
    """The result of every job, those the cache has not got by running it; progress in runs."""
    results: dict[tuple[str, ...], dict[str, Any]] = {}
    missing = []
    for key, (inputs, _) in wanted.items():
        known = cache.get(key, inputs)
        if known is None:
            missing.append(key)
        else:
            results[key] = known
    total = sum(wanted[key][1].cost for key in missing)
    done = 0
    if missing:
        on_done(done, total)

    def keep(i: int, result: dict[str, Any]) -> None:
        nonlocal done
        key = missing[i]
        inputs, job = wanted[key]
        cache.put(key, inputs, result)
        results[key] = result
        done += job.cost
        on_done(done, total)

    run_jobs([wanted[key][1] for key in missing], num_workers, keep)
    return results


def tuning_cost(rule: str) -> int:
    """About how many runs tuning takes: one or two for every candidate, all for the finalists."""
    num_candidates = len(grid_of(rule))
    return 2 * num_candidates + min(num_candidates, NUM_FINALISTS) * NUM_VALIDATION


def tuning_digest(scenario: Scenario, rule: str) -> str:
    """What the choice of a rule's constants depends on."""
    grid = [list(constants.items()) for constants in grid_of(rule)]
    search = [NUM_VALIDATION, NUM_SCREENING, NUM_FINALISTS, MAX_SCREENED, HALVING]
    return digest(scenario_digest(scenario, "validation"), rule, grid, search)


def scenario_digest(scenario: Scenario, split: Split) -> str:
    """What runs on a scenario depend on: sources, machine, pause table, and its first trace."""
    trace, table = scenario.trace(0, split), scenario.table
    return digest(
        source_digest(),
        asdict(scenario.profile),
        table.residual_s,
        trace.arrival_s,
        trace.input_tokens,
        trace.shared_prefix_tokens,
        trace.output_tokens,
        trace.tool,
        np.nan_to_num(trace.pause_s),
        trace.num_concurrent,
    )


def policy_digest(policy: AgentPolicy, scenario: Scenario) -> str:
    """What a policy's answers depend on."""
    policy, table = policy.on(scenario), policy.table(scenario)
    leases = policy.rule.leases(scenario.profile, table)
    learned = [*(policy.weights or ()), *(policy.trained_range or ()), *(policy.trees or ())]
    arrays = [policy.rule.params(table), *([] if leases is None else [leases]), *learned]
    if policy.predicts_pauses:
        arrays.append(table.residual_s)
    return digest(policy.rule.name, policy.prior, policy.min_confidence, *arrays)


def _tuned(scenario: Scenario, rule: str) -> dict[str, Any]:
    choice = tune(scenario, rule)
    return {
        "constants": dict(choice.constants),
        "validation_s": choice.validation_s,
        "num_candidates": choice.num_candidates,
    }


def _figures(
    scenario: Scenario, policy: AgentPolicy, seeds: Sequence[int], config: EngineConfig | None
) -> dict[str, Any]:
    runs = [run_policy(scenario, policy, scenario.trace(seed, "test"), config) for seed in seeds]
    return summarize(runs)
