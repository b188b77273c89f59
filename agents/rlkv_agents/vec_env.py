"""The vector environment as stable-baselines3 and sb3-contrib know one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rlkv_envs.vector import KVMemoryVectorEnv

Indices = None | int | Iterable[int]


class KVMemoryVecEnv(VecEnv):
    """Steps a ``KVMemoryVectorEnv`` for SB3's algorithms, MaskablePPO among them.

    The infos of a step are one list that is reused: empty dictionaries, but for episodes that end,
    which get ``terminal_observation``, ``TimeLimit.truncated``, ``episode`` (return ``r`` and
    length ``l``, as SB3's Monitor has them), ``metrics`` and ``dt_s``. The elapsed time of every
    step, for a semi-Markov discount, is the attribute ``dt_s``.

    Args:
        env: the vector environment.
        seed: of the first reset.
    """

    def __init__(self, env: KVMemoryVectorEnv, *, seed: int | None = None) -> None:
        self.env = env
        self.render_mode = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata
        self._seed = seed
        self._infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
        self._used: list[int] = []
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, np.int64)
        self._actions: NDArray[np.int64] = np.zeros(env.num_envs, np.int64)

    @property
    def dt_s(self) -> NDArray[np.float64]:
        """Seconds that the last step of each engine covered, shape ``[num_envs]``."""
        return self.env.dt_s

    def action_masks(self) -> NDArray[np.bool_]:
        """True where an action is legal, shape ``[num_envs, 3]``."""
        return self.env.action_masks()

    def reset(self) -> NDArray[np.float32]:
        """Starts every episode anew; a seed given before is used once."""
        seed = self._seeds[0] if self._seeds[0] is not None else self._seed
        self._seed = None
        self._reset_seeds()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        observations, _ = self.env.reset(seed=seed)
        return observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Takes the actions of the next ``step_wait``."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], list[dict[str, Any]]]:
        """Steps; see ``KVMemoryVectorEnv.step``."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        for i in self._used:
            self._infos[i] = {}
        self._used = np.flatnonzero(dones).tolist()
        for i in self._used:
            final = infos["final_info"]
            self._infos[i] = {
                "terminal_observation": infos["final_obs"][i],
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
                "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i])},
                "metrics": {k: v[i] for k, v in final.items() if not k.startswith("_")},
                "dt_s": float(infos["dt_s"][i]),
            }
            self._returns[i] = 0.0
            self._lengths[i] = 0
        return observations, rewards, dones, self._infos

    def close(self) -> None:
        """Closes the vector environment."""
        self.env.close()

    def has_attr(self, attr_name: str) -> bool:
        """Has the vector environment, or this adapter, such an attribute?"""
        return hasattr(self, attr_name) or hasattr(self.env, attr_name)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute for each engine: its part of an array over engines, else all of it."""
        value = getattr(self.env, attr_name)
        spread = isinstance(value, np.ndarray) and value.shape[:1] == (self.num_envs,)
        return [value[i] if spread else value for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Sets an attribute of the vector environment, of all engines together."""
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of the vector environment once; each engine gets its part."""
        value = getattr(self.env, method_name)(*method_args, **method_kwargs)
        spread = isinstance(value, np.ndarray) and value.shape[:1] == (self.num_envs,)
        return [value[i] if spread else value for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Nothing is wrapped."""
        return [False for _ in self._get_indices(indices)]
