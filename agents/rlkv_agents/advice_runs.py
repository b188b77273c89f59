"""What every candidate costs on many machines: the runs that advice is made from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlkv_agents.advice import Advice, candidates, describe
from rlkv_agents.house_rule import House
from rlkv_agents.jobs import Job
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.result_cache import ResultFolder, digest
from rlkv_agents.rules import constants_of
from rlkv_agents.suite import scenario_digest, through_cache
from rlkv_agents.train import OnProgress
from rlkv_agents.tune import validation_latency_s, validation_traces
from rlkv_envs.scenario import Scenario

#: Validation traces that every candidate runs on every machine.
NUM_TRACES = 8


def known_machines(
    machines: Sequence[Scenario],
    tuned: Sequence[House],
    folder: Path,
    num_workers: int,
    on_progress: OnProgress,
) -> Advice:
    """Advice from these machines and the rules tuned for them, each of which runs on all of them.

    Runs that ``folder`` holds are not done again.
    """
    rules = candidates(tuned)
    tried = [list(constants_of(rule).values()) for rule in rules]
    wanted: dict[tuple[str, ...], tuple[str, Job]] = {
        (machine.name,): (
            digest(scenario_digest(machine, "validation"), tried, NUM_TRACES),
            Job(partial(_latencies, machine, rules), len(rules) * NUM_TRACES),
        )
        for machine in machines
    }
    found = through_cache(
        wanted, ResultFolder(folder), num_workers, partial(on_progress, "candidates")
    )
    log_s = np.array([found[machine.name,]["log_latency"] for machine in machines])
    regret = log_s.mean(axis=2)  # [num_machines, num_candidates]
    return Advice.of_constants(
        rules,
        np.stack([describe(machine.profile, machine.table) for machine in machines]),
        regret - regret.min(axis=1, keepdims=True),
    )


def _latencies(machine: Scenario, rules: Sequence[House]) -> dict[str, Any]:
    traces = validation_traces(machine, NUM_TRACES)
    rows = [
        np.log(validation_latency_s(machine, AgentPolicy(rule.name, rule), traces))
        for rule in rules
    ]
    return {"log_latency": [row.tolist() for row in rows]}
