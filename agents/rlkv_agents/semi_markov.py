"""PPO for decisions that are not evenly spaced in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer

from rlkv_agents.vec_env import KVMemoryVecEnv


class SemiMarkovBuffer(MaskableRolloutBuffer):
    """A rollout buffer that discounts by elapsed time: ``exp(-dt / discount_s)`` for each step.

    Generalized advantage estimation with a discount of its own for every transition (Bradtke and
    Duff, "Reinforcement learning methods for continuous-time Markov decision problems", 1994). The
    traces of credit fade with time as well, over ``trace_s``: many decisions at one moment share
    their consequences.
    """

    def __init__(
        self,
        *args: Any,
        env: KVMemoryVecEnv,
        discount_s: float,
        trace_s: float,
        **kwargs: Any,
    ) -> None:
        self.env = env
        self.discount_s = discount_s
        self.trace_s = trace_s
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Empties the buffer."""
        super().reset()
        self.dt_s = np.zeros((self.buffer_size, self.n_envs), np.float64)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Adds one step of all environments and the time that it took."""
        self.dt_s[self.pos] = self.env.dt_s
        super().add(*args, **kwargs)

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Advantages and returns, newest step first; shapes ``[steps, num_envs]``."""
        next_value = last_values.clone().cpu().numpy().flatten()
        alive = 1.0 - dones.astype(np.float64)
        advantage = np.zeros(self.n_envs)
        for step in reversed(range(self.buffer_size)):
            discount = np.exp(-self.dt_s[step] / self.discount_s) * alive
            delta = self.rewards[step] + discount * next_value - self.values[step]
            advantage = delta + discount * np.exp(-self.dt_s[step] / self.trace_s) * advantage
            self.advantages[step] = advantage
            next_value = self.values[step]
            alive = 1.0 - self.episode_starts[step]
        self.returns = self.advantages + self.values
