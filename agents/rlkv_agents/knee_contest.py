"""What load every policy sustains on the same machines, relative to the house rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlkv_agents.contestants import REFERENCE
from rlkv_agents.jobs import Job
from rlkv_agents.knee import find_knee
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFolder, digest
from rlkv_agents.suite import Evaluation, policy_digest, scenario_digest, through_cache
from rlkv_agents.suite_regret import ratio_of_means
from rlkv_agents.train import OnProgress
from rlkv_envs.scenario import Scenario

KNEES_FOLDER = "knees"
#: About how many loads a search tries, for progress.
_LOADS = 10


def sustained_rates(
    evaluations: Sequence[Evaluation],
    seeds: Sequence[int],
    tolerance: float,
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Sustainable rates on held-out traces: machine -> policy -> figures.

    Of each policy ``rate_per_s`` (all traces together), ``empty_s`` and ``limit_s`` (s/token) as
    ``find_knee`` has them, ``rate_by_seed_per_s`` (each trace by itself), and ``over_house``: the
    mean of those over the house rule's, paired, with its 95 % interval. Finished parts are kept in
    the folder.

    Raises:
        InputError: a machine whose arrivals have no rate, or without a knee.
    """
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {
        each.key: (
            digest(
                scenario_digest(each.setting.scenario, "test"),
                each.setting.scenario.rate_per_s,
                list(seeds),
                tolerance,
                policy_digest(each.policy, each.setting.scenario),
            ),
            Job(
                partial(_rates, each.setting.scenario, each.policy, seeds, tolerance),
                2 * _LOADS * len(seeds),
            ),
        )
        for each in evaluations
    }
    cache = ResultFolder(folder / KNEES_FOLDER)
    found = through_cache(wanted, cache, num_workers, partial(on_progress, "knees"))
    machines: dict[str, dict[str, dict[str, Any]]] = {}
    for each in evaluations:
        rates = {**found[each.key], "sees_future": each.policy.sees_future}
        machines.setdefault(each.setting.scenario.name, {})[each.policy.name] = rates
    for policies in machines.values():
        house = policies[REFERENCE]["rate_by_seed_per_s"]
        for rates in policies.values():
            rates["over_house"] = ratio_of_means(rates["rate_by_seed_per_s"], house)
    return machines


def moved(policies: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    """Does this policy sustain another load than the house rule, surely?"""
    low, high = policies[name]["over_house"]["ci95"]
    return not low <= 1.0 <= high


def _rates(
    scenario: Scenario, policy: AgentPolicy, seeds: Sequence[int], tolerance: float
) -> dict[str, Any]:
    search = partial(find_knee, scenario, policy, tolerance=tolerance, split="test")
    together = search(seeds=seeds)
    return {
        "rate_per_s": together.rate_per_s,
        "empty_s": together.empty_s,
        "limit_s": together.limit_s,
        "rate_by_seed_per_s": [search(seeds=[seed]).rate_per_s for seed in seeds],
    }
