from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer

from rlkv_agents.semi_markov import SemiMarkovBuffer
from rlkv_envs.observation import action_space, observation_space

DISCOUNT_S, TRACE_S = 5.0, 2.0


def filled(
    dt_s: list[list[float]],
    rewards: list[list[float]],
    values: list[list[float]],
    starts: list[list[bool]],
    discount_s: float = DISCOUNT_S,
    trace_s: float = TRACE_S,
) -> SemiMarkovBuffer:
    """A buffer of these steps; each argument has shape ``[steps, num_envs]``."""
    num_envs = len(dt_s[0])
    env: Any = SimpleNamespace(dt_s=np.zeros(num_envs))
    buffer = SemiMarkovBuffer(
        len(dt_s), observation_space(), action_space(), "cpu", n_envs=num_envs,
        env=env, discount_s=discount_s, trace_s=trace_s,
    )  # fmt: skip
    for step, elapsed in enumerate(dt_s):
        env.dt_s = np.array(elapsed)
        buffer.add(
            np.zeros((num_envs, *buffer.obs_shape), np.float32), np.zeros((num_envs, 1)),
            np.array(rewards[step]), np.array(starts[step]), torch.tensor(values[step]),
            torch.zeros(num_envs), action_masks=np.ones((num_envs, 3), bool),
        )  # fmt: skip
    return buffer


def test_advantages_by_hand_with_unequal_times() -> None:
    buffer = filled(
        dt_s=[[1.0], [0.0], [4.0]],
        rewards=[[-1.0], [-2.0], [-0.5]],
        values=[[3.0], [2.0], [1.0]],
        starts=[[True], [False], [False]],
    )
    buffer.compute_returns_and_advantage(torch.tensor([0.5]), np.array([False]))
    # The value of a state after dt seconds counts exp(-dt / 5 s), credit exp(-dt / 2 s) on top.
    third = -0.5 + math.exp(-4 / 5) * 0.5 - 1.0
    second = -2.0 + 1.0 * 1.0 - 2.0 + 1.0 * third  # no time passed: nothing is discounted
    first = -1.0 + math.exp(-1 / 5) * 2.0 - 3.0 + math.exp(-1 / 5) * math.exp(-1 / 2) * second
    np.testing.assert_allclose(buffer.advantages[:, 0], [first, second, third], rtol=1e-6)
    np.testing.assert_allclose(
        buffer.returns[:, 0], [first + 3.0, second + 2.0, third + 1.0], rtol=1e-6
    )


def test_nothing_flows_over_the_end_of_an_episode() -> None:
    # The first environment's episode ends with its first step, the second's with its last.
    buffer = filled(
        dt_s=[[1.0, 2.0], [3.0, 0.5]],
        rewards=[[-1.0, -1.0], [-4.0, -2.0]],
        values=[[2.0, 2.0], [7.0, 1.0]],
        starts=[[True, False], [True, False]],
    )
    buffer.compute_returns_and_advantage(torch.tensor([9.0, 9.0]), np.array([False, True]))
    assert buffer.advantages[0, 0] == pytest.approx(-1.0 - 2.0)
    assert buffer.advantages[1, 0] == pytest.approx(-4.0 + math.exp(-3 / 5) * 9.0 - 7.0)
    last = -2.0 - 1.0
    assert buffer.advantages[1, 1] == pytest.approx(last)
    assert buffer.advantages[0, 1] == pytest.approx(
        -1.0 + math.exp(-2 / 5) * 1.0 - 2.0 + math.exp(-2 / 5 - 2 / 2) * last
    )


def test_equal_times_are_ordinary_generalized_advantages() -> None:
    rng = np.random.default_rng(0)
    shape = (50, 3)
    rewards, values = rng.normal(size=shape), rng.normal(size=shape)
    starts = rng.random(shape) < 0.1
    gamma, lam = 0.9, 0.8
    dt_s = 1.5
    buffer = filled(
        np.full(shape, dt_s).tolist(), rewards.tolist(), values.tolist(), starts.tolist(),
        discount_s=-dt_s / math.log(gamma), trace_s=-dt_s / math.log(lam),
    )  # fmt: skip
    plain = RolloutBuffer(
        50, observation_space(), action_space(), "cpu", gae_lambda=lam, gamma=gamma, n_envs=3
    )
    plain.rewards, plain.values = buffer.rewards.copy(), buffer.values.copy()
    plain.episode_starts = buffer.episode_starts.copy()
    last, dones = torch.tensor([0.3, -0.2, 0.1]), np.array([True, False, False])
    buffer.compute_returns_and_advantage(last, dones)
    plain.compute_returns_and_advantage(last, dones)
    np.testing.assert_allclose(buffer.advantages, plain.advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(buffer.returns, plain.returns, rtol=1e-4, atol=1e-5)


def test_a_reset_forgets_the_times() -> None:
    buffer = filled([[1.0], [2.0]], [[0.0]] * 2, [[0.0]] * 2, [[True], [False]])
    np.testing.assert_array_equal(buffer.dt_s, [[1.0], [2.0]])
    buffer.reset()
    np.testing.assert_array_equal(buffer.dt_s, np.zeros((2, 1)))
    assert buffer.pos == 0
