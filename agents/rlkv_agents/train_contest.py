"""What `rlkv train` brings on each scenario: several seeds, each against the rule tuned there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rlkv_agents
from rlkv_agents.evaluate import means, run_policy
from rlkv_agents.jobs import Job
from rlkv_agents.result_cache import ResultFolder, digest, package_digest
from rlkv_agents.suite import scenario_digest, through_cache
from rlkv_agents.train import START_RULE, OnProgress, TrainConfig, train
from rlkv_agents.warm_start import warm_start_bundle
from rlkv_envs.scenario import Scenario

#: Below the folder of the results.
TRAINED = "trained"
#: Guess of what one training costs, in engine runs, beside those on held-out traces.
_COST = 3000


def train_all(
    scenarios: Sequence[Scenario],
    warm_starts: Sequence[str],
    train_seeds: Sequence[int],
    seeds: Sequence[int],
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> dict[tuple[str, ...], dict[str, Any]]:
    """Train on every scenario from every start with every seed, and run what was saved.

    Args:
        scenarios: one policy is trained for each of them.
        warm_starts: as for ``warm_start_bundle``.
        train_seeds: of training.
        seeds: of the held-out traces.
        folder: keeps what is finished.
        num_workers: processes.
        on_progress: hears of finished trainings.

    Returns:
        (scenario, warm start, training seed) -> ``mean_by_seed_s`` of ``house`` (tuned),
        ``learned-order`` and ``learned``; ``learned_by``, the form of the snapshot that was kept;
        ``cpu_s`` of learning, tuning not counted.
    """
    bundles = {warm_start: warm_start_bundle(warm_start) for warm_start in warm_starts}
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {}
    for scenario in scenarios:
        for warm_start, bundle in bundles.items():
            weights = bundle and bundle.metadata["weights_sha256"]
            for train_seed in train_seeds:
                key = (scenario.name, Path(warm_start).name, str(train_seed))
                inputs = digest(
                    package_digest(rlkv_agents),
                    *(scenario_digest(scenario, split) for split in ("train", "test")),
                    [weights, train_seed, *seeds],
                )
                place = folder / TRAINED / "-".join(key)
                work = partial(_trained, scenario, warm_start, train_seed, seeds, place)
                wanted[key] = (inputs, Job(work, _COST + 3 * len(seeds)))
    cache = ResultFolder(folder / TRAINED)
    found = through_cache(wanted, cache, num_workers, partial(on_progress, "train"))
    return {key: found[key] for key in wanted}


def _trained(
    scenario: Scenario, warm_start: str, train_seed: int, seeds: Sequence[int], place: Path
) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    config = TrainConfig(seed=train_seed, rules=(START_RULE,))
    result = train(scenario, config, place, warm_start=warm_start_bundle(warm_start))
    (chosen,) = [point for point in result.progress.curve if point["chosen"]]
    traces = [scenario.trace(seed, "test") for seed in seeds]
    return {
        "mean_by_seed_s": {
            policy.name: means([run_policy(scenario, policy, trace) for trace in traces]).tolist()
            for policy in (result.start, result.ordered, result.policy)
        },
        "learned_by": chosen.get("form", "none"),
        "cpu_s": result.progress.cpu_s,
    }
