from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

from rlkv_agents.vec_env import KVMemoryVecEnv
from rlkv_envs.vector import KVMemoryVectorEnv
from tests.envs.small_machine import small_options

NUM_ENVS = 4


def vec_env(**options: Any) -> KVMemoryVecEnv:
    return KVMemoryVecEnv(KVMemoryVectorEnv(NUM_ENVS, num_traces=3, **small_options(**options)))


def test_it_steps_like_the_vector_environment() -> None:
    ours, theirs = vec_env(), KVMemoryVectorEnv(NUM_ENVS, num_traces=3, **small_options())
    ours.seed(9)
    np.testing.assert_array_equal(ours.reset(), theirs.reset(seed=9)[0])
    rng = np.random.default_rng(0)
    returns, lengths, ends = np.zeros(NUM_ENVS), np.zeros(NUM_ENVS), 0
    for _ in range(400):
        actions = rng.integers(3, size=NUM_ENVS)
        observations, rewards, dones, infos = ours.step(actions)
        expected = theirs.step(actions)
        np.testing.assert_array_equal(observations, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        np.testing.assert_array_equal(dones, expected[2] | expected[3])
        np.testing.assert_array_equal(ours.dt_s, theirs.dt_s)
        np.testing.assert_array_equal(ours.get_attr("dt_s"), theirs.dt_s)
        returns, lengths = returns + rewards, lengths + 1
        for i, done in enumerate(dones):
            assert bool(infos[i]) == done
            if done:
                ends += 1
                assert infos[i]["episode"] == {"r": pytest.approx(returns[i]), "l": lengths[i]}
                assert not infos[i]["TimeLimit.truncated"]
                np.testing.assert_array_equal(
                    infos[i]["terminal_observation"], expected[4]["final_obs"][i]
                )
                assert infos[i]["metrics"]["num_finished"] == 30
                returns[i] = lengths[i] = 0
    assert ends > 0


def test_truncation_is_told_from_termination() -> None:
    env = vec_env(horizon_s=10.0)
    env.seed(1)
    env.reset()
    truncated = []
    for _ in range(200):
        *_, dones, infos = env.step(np.zeros(NUM_ENVS, np.int64))
        truncated += [infos[i]["TimeLimit.truncated"] for i in np.flatnonzero(dones)]
    assert truncated and all(truncated)


def test_masks_reach_sb3_contrib() -> None:
    env = vec_env(num_host_blocks=40)
    env.seed(1)
    env.reset()
    assert is_masking_supported(env)
    legal = []
    for _ in range(200):
        masks = get_action_masks(env)
        assert masks.shape == (NUM_ENVS, 3)
        np.testing.assert_array_equal(masks, env.action_masks())
        legal.append(masks)
        env.step(np.zeros(NUM_ENVS, np.int64))
    assert np.all(legal, axis=(0, 1)).tolist() == [True, False, True]
    assert not env.has_attr("no_such_thing")
    assert env.env_method("action_masks", indices=[1])[0].shape == (3,)


def test_maskable_ppo_trains_on_it() -> None:
    env = vec_env(horizon_s=15.0)
    model = MaskablePPO(
        "MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu"
    )
    model.learn(4 * 64 * NUM_ENVS)
    assert len(model.ep_info_buffer or []) > 0
