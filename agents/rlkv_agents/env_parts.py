"""What a learner takes out of an environment: its scenario, and its reference rule."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from rlkv_agents.base_rule import Rule
from rlkv_agents.house_rule import House
from rlkv_agents.vec_env import KVMemoryVecEnv
from rlkv_engine import rule as R
from rlkv_engine.errors import InputError
from rlkv_engine.state import SWAP
from rlkv_envs.env_settings import EnvSettings
from rlkv_envs.kv_memory import KVMemoryEnv
from rlkv_envs.scenario import Scenario, load_scenario

Env = gymnasium.Env[Any, Any] | VecEnv | Scenario | str


def make_env(env: Env, rule: Rule) -> gymnasium.Env[Any, Any] | VecEnv:
    """An environment from a scenario or its name; an environment is returned as it is.

    Raises:
        InputError: no such scenario.
    """
    if not isinstance(env, str | Scenario):
        return env
    scenario = load_scenario(env) if isinstance(env, str) else env
    return gymnasium.make(
        "rlkv/KVMemory-v0", scenario=scenario, rule=rule.params(scenario.table), ask_call=False
    )


def settings_of(env: gymnasium.Env[Any, Any] | VecEnv) -> EnvSettings:
    """The settings of an environment of rlkv, whatever it is wrapped in.

    Raises:
        InputError: it is not one.
    """
    inner: Any = env
    while isinstance(inner, VecEnvWrapper):
        inner = inner.venv
    if isinstance(inner, KVMemoryVecEnv):
        return inner.env.settings
    if isinstance(inner, DummyVecEnv):
        inner = inner.envs[0]
    inner = getattr(inner, "unwrapped", inner)
    if not isinstance(inner, KVMemoryEnv):
        raise InputError(
            f"{type(inner).__name__} is not an environment of rlkv: its engine cannot be forked"
        )
    return inner.settings


def house_rule_of(settings: EnvSettings) -> House:
    """The house rule whose numbers the environment's reference rule has.

    Raises:
        InputError: it is another rule.
    """
    numbers, table = settings.rule, settings.table
    rule = House(
        guard_pauses=float(numbers[R.GUARD_S] / table.mean_pause_s),
        swap_ratio=float(numbers[R.SWAP_RATIO]),
        write_through=float(numbers[R.CALL_VERB] == SWAP),
        new_swaps=float(numbers[R.NEW_VERB] == SWAP),
        slack_ratio=float(numbers[R.SLACK_RATIO]),
    ).with_order(numbers[R.ORDER_WEIGHTS :])
    check_rule(settings, rule)
    return rule


def check_rule(settings: EnvSettings, rule: Rule) -> None:
    """Raises ``InputError`` unless this is the environment's reference rule, on its own table."""
    if settings.table is not settings.scenario.table:
        raise InputError("the environment has a pause table of its own: forks use the scenario's")
    if not np.allclose(rule.params(settings.table), settings.rule, rtol=1e-9, atol=0.0):
        raise InputError(
            f"the environment's reference rule is not {rule}: make both with the same rule, the"
            " environment with rule=rule.params(scenario.table)"
        )
