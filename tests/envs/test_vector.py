from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from rlkv_engine.errors import InputError
from rlkv_envs.registration import ENV_ID
from rlkv_envs.stepping import TERMS
from rlkv_envs.vector import KVMemoryVectorEnv
from rlkv_envs.workloads.arrivals import Poisson
from tests.envs.small_machine import legal_action, small_env, small_options, small_traces

NUM_ENVS = 5


def small_vector(num_envs: int = NUM_ENVS, **options: Any) -> KVMemoryVectorEnv:
    return KVMemoryVectorEnv(num_envs, **small_options(**options))


@pytest.mark.parametrize("reward", ["paired", "cost"])
def test_it_steps_like_single_environments(reward: str) -> None:
    traces = small_traces(4)
    vector = small_vector(traces=traces, reward=reward)
    observations, infos = vector.reset(seed=0)
    singles = [small_env(reward=reward) for _ in range(NUM_ENVS)]
    for i, env in enumerate(singles):
        first, _ = env.reset(options={"trace": traces[vector.trace_index[i]]})
        np.testing.assert_array_equal(observations[i], first)
    rng = np.random.default_rng(0)
    num_ends = 0
    for _ in range(600):
        masks = vector.action_masks()
        actions = np.array([legal_action(rng, mask) for mask in masks])
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        for i, env in enumerate(singles):
            np.testing.assert_array_equal(masks[i], env.action_masks())
            last, reward_i, terminated_i, truncated_i, info = env.step(actions[i])
            assert rewards[i] == reward_i
            assert (terminated[i], truncated[i]) == (terminated_i, truncated_i)
            assert vector.dt_s[i] == env.dt_s
            for term in TERMS:
                assert infos[term][i] == info[term]
            if terminated_i:
                num_ends += 1
                np.testing.assert_array_equal(infos["final_obs"][i], last)
                final = infos["final_info"]
                for key in ("normalized_latency_s_mean", "num_decisions", "now_s", "cost"):
                    assert final[key][i] == info[key]
                last, info = env.reset(options={"trace": traces[vector.trace_index[i]]})
            np.testing.assert_array_equal(observations[i], last)
            np.testing.assert_array_equal(infos["action_mask"][i], info["action_mask"])
            assert (infos["now_s"][i], infos["point"][i]) == (info["now_s"], info["point"])
    assert num_ends > NUM_ENVS


def test_an_episode_ends_and_begins_in_the_same_step() -> None:
    env = small_vector(horizon_s=10.0)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    env.reset(seed=0)
    truncations = 0
    for _ in range(300):
        observations, _, terminated, truncated, infos = env.step(np.zeros(NUM_ENVS, np.int64))
        assert observations.any(axis=1).all()
        assert not terminated.any()
        assert ("final_obs" in infos) == truncated.any()
        if truncated.any():
            np.testing.assert_array_equal(infos["_final_obs"], truncated)
            np.testing.assert_array_equal(infos["_final_info"], truncated)
            assert (infos["final_info"]["now_s"][truncated] >= 10.0).all()
            assert (infos["now_s"][truncated] < 10.0).all()
            truncations += int(truncated.sum())
    assert truncations > NUM_ENVS


def test_equal_seeds_give_equal_rollouts() -> None:
    one, two = small_vector(num_traces=3), small_vector(num_traces=3)
    np.testing.assert_array_equal(one.reset(seed=4)[0], two.reset(seed=4)[0])
    rng = np.random.default_rng(0)
    for _ in range(400):
        actions = rng.integers(3, size=NUM_ENVS)
        for first, second in zip(one.step(actions)[:4], two.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(first, second)
    assert len(one.traces) == 3
    np.testing.assert_array_equal(one.reset()[0], two.reset()[0])


def test_the_bank_changes_with_the_seed_alone() -> None:
    env = small_vector(num_traces=2)
    env.reset(seed=1)
    bank = env.traces
    env.reset()
    assert env.traces is bank
    env.reset(seed=2)
    assert not np.array_equal(env.traces[0].arrival_s, bank[0].arrival_s)


def test_given_traces_and_chosen_ones_are_kept() -> None:
    traces = small_traces(3)
    env = small_vector(num_envs=3, traces=traces)
    for seed in (1, 2):
        env.reset(seed=seed, options={"trace_index": [2, 0, 1]})
        assert env.trace_index.tolist() == [2, 0, 1]
        assert all(ours is given for ours, given in zip(env.traces, traces, strict=True))


def test_what_a_step_returned_is_not_overwritten() -> None:
    env = small_vector()
    env.reset(seed=0)
    returned = env.step(np.zeros(NUM_ENVS, np.int64))
    kept = [array.copy() for array in returned[:4]]
    dt_s, masks = env.dt_s, returned[4]["action_mask"].copy()
    dt_kept = dt_s.copy()
    for _ in range(10):
        env.step(np.full(NUM_ENVS, 2))
    for array, copy in zip(returned[:4], kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(dt_s, dt_kept)
    np.testing.assert_array_equal(returned[4]["action_mask"], masks)


def test_gymnasium_makes_and_wraps_it() -> None:
    env = gymnasium.make_vec(ENV_ID, num_envs=3, num_sessions=20, num_traces=2)
    assert isinstance(env.unwrapped, KVMemoryVectorEnv)
    wrapped = RecordEpisodeStatistics(env)
    wrapped.reset(seed=0)
    episodes = []
    for _ in range(200):
        *_, infos = wrapped.step(np.zeros(3, np.int64))
        if "final_info" in infos:
            episodes.append(infos["episode"])
    assert episodes


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="num_envs and num_traces must be 1 or more"):
        KVMemoryVectorEnv(0)
    with pytest.raises(InputError, match="a bank needs at least one trace"):
        small_vector(traces=[]).reset(seed=0)
    with pytest.raises(InputError, match="no decision in 100 traces"):
        small_vector(ask_call=False, arrivals=Poisson(0.01), num_sessions=2).reset(seed=0)
    env = small_vector()
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step(np.zeros(NUM_ENVS, np.int64))
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"shape \(5,\), got \(4,\)"):
        env.step(np.zeros(4, np.int64))
    with pytest.raises(InputError, match="one number"):
        env.reset(seed=[1, 2, 3, 4, 5])
