"""A machine so small that a few sessions fill it, for the tests of the environments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rlkv_engine.profile import Profile, load_profile
from rlkv_engine.trace import Trace
from rlkv_envs.env_settings import EnvSettings, make_settings
from rlkv_envs.kv_memory import KVMemoryEnv
from rlkv_envs.workloads.arrivals import ArrivalProcess, Poisson

NUM_SESSIONS = 30


def small_profile(num_host_blocks: int = 250) -> Profile:
    return replace(
        load_profile("gptj-6b-a100+link0.125"),
        name="small",
        num_device_blocks=500,
        num_host_blocks=num_host_blocks,
    )


def small_options(
    arrivals: ArrivalProcess | None = None, num_host_blocks: int = 250, **options: Any
) -> dict[str, Any]:
    return {
        "profile": small_profile(num_host_blocks),
        "arrivals": arrivals or Poisson(1.0),
        "num_sessions": NUM_SESSIONS,
        **options,
    }


def small_settings(**options: Any) -> EnvSettings:
    return make_settings(small_options(**options))  # type: ignore[arg-type]


def small_env(**options: Any) -> KVMemoryEnv:
    return KVMemoryEnv(**small_options(**options))


def small_traces(count: int, **options: Any) -> list[Trace]:
    settings = small_settings(**options)
    return [settings.trace(seed) for seed in range(count)]


def legal_action(rng: np.random.Generator, mask: Any) -> int:
    return int(rng.choice(np.flatnonzero(mask)))
