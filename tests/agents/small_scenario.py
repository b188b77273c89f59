"""Scenarios that run in milliseconds, with memory that binds, and networks that learnt nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine.observe import NUM_FEATURES
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import make_workload
from tests.envs.small_machine import small_profile


def small_scenario(
    rate_per_s: float = 1.0,
    num_sessions: int = 30,
    num_host_blocks: int = 250,
    workload: str = "crossover",
) -> Scenario:
    return Scenario(
        "small", small_profile(num_host_blocks), make_workload(workload), rate_per_s, num_sessions
    )


def random_weights(seed: int = 0, hidden: int = 8) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    layers = [(hidden, NUM_FEATURES), (hidden, hidden), (3, hidden)]
    arrays = []
    for rows, columns in layers:
        arrays += [rng.standard_normal((rows, columns)), rng.standard_normal(rows)]
    return arrays


def random_network(seed: int = 0, hidden: int = 8) -> AgentPolicy:
    return AgentPolicy("learned", make_rule("house"), random_weights(seed, hidden), prior=0.5)
