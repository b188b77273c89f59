"""Scenarios that run in milliseconds, with memory that binds."""

from __future__ import annotations

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
