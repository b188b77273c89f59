from __future__ import annotations

import re
import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import rlkv_envs
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.errors import InputError
from rlkv_engine.loop import RULE_POLICY
from rlkv_engine.observe import FEATURES
from rlkv_envs.kv_memory import KVMemoryEnv
from rlkv_envs.workloads.arrivals import ClosedLoop, Poisson
from tests.envs.small_machine import NUM_SESSIONS, legal_action, small_env, small_settings

SEEDS = range(4)


def play(
    env: KVMemoryEnv, seed: int, choose: Any = None
) -> tuple[list[float], list[dict[str, Any]]]:
    """One episode: its rewards, and its infos but for that of the reset."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    rewards, infos = [], []
    while True:
        mask = info["action_mask"]
        action = legal_action(rng, mask) if choose is None else choose(observation, mask)
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        infos.append(info)
        if terminated or truncated:
            return rewards, infos


def rule_action(observation: Any, mask: Any) -> int:
    return int(np.argmax(observation[-3:]))


def test_gymnasium_approves() -> None:
    with warnings.catch_warnings():
        # Bounds of a few features are not symmetric, which the checker remarks on.
        warnings.simplefilter("ignore")
        check_env(small_env(), skip_render_check=True)
        check_env(small_env(render_mode="rgb_array"))


def test_stable_baselines_approves() -> None:
    sb3_check_env(small_env())


def test_it_is_registered() -> None:
    env = gymnasium.make(rlkv_envs.registration.ENV_ID, num_sessions=20)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert isinstance(env.unwrapped, KVMemoryEnv)
    rlkv_envs.register_envs()


def test_importing_the_package_is_cheap() -> None:
    program = "import sys, rlkv_envs; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    ).stdout.split()
    assert "gymnasium" in loaded
    assert not {"torch", "numba", "stable_baselines3"} & set(loaded)


def test_the_table_of_observations_is_that_of_the_engine() -> None:
    row = re.compile(r"\| (\d+) \| (\S+) \| (\S+) \| (\S+) \| (.+) \|$")
    text = str(KVMemoryEnv.__doc__).split("Observation Space")[1]
    rows = [match.groups() for line in text.splitlines() if (match := row.match(line.strip()))]
    expected = [
        (str(i), f.name, f"{f.low:g}", f"{f.high:g}", f.meaning) for i, f in enumerate(FEATURES)
    ]
    assert rows == expected


def test_two_environments_with_one_seed_are_equal() -> None:
    envs = small_env(), small_env()
    rng = np.random.default_rng(7)
    (first, info), (second, _) = (env.reset(seed=11) for env in envs)
    np.testing.assert_array_equal(first, second)
    for _ in range(150):
        action = legal_action(rng, info["action_mask"])
        (first, *one, info), (second, *two, info_two) = (env.step(action) for env in envs)
        np.testing.assert_array_equal(first, second)
        assert one == two
        assert info.keys() == info_two.keys()
        for key in info:
            np.testing.assert_array_equal(info[key], info_two[key])
        if one[1] or one[2]:
            (first, info), (second, _) = (env.reset() for env in envs)
            np.testing.assert_array_equal(first, second)


def test_another_seed_is_another_trace() -> None:
    env = small_env()
    env.reset(seed=1)
    first = env.trace
    env.reset(seed=2)
    assert not np.array_equal(first.arrival_s, env.trace.arrival_s)
    env.reset(seed=1)
    np.testing.assert_array_equal(first.arrival_s, env.trace.arrival_s)


@pytest.mark.parametrize("seed", SEEDS)
def test_costs_sum_to_normalized_latencies(seed: int) -> None:
    env = small_env(reward="cost")
    rewards, infos = play(env, seed)
    latency_s = infos[-1]["normalized_latency_s_mean"] * NUM_SESSIONS
    assert infos[-1]["num_finished"] == NUM_SESSIONS
    assert sum(info["cost"] for info in infos) == pytest.approx(latency_s, rel=1e-9)
    assert -sum(rewards) * env.reward_unit == pytest.approx(latency_s, rel=1e-9)


@pytest.mark.parametrize("choose", [None, rule_action, lambda *_: 0, lambda *_: 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_paired_return_is_the_difference_of_the_totals(seed: int, choose: Any) -> None:
    env = small_env()
    rewards, infos = play(env, seed, choose)
    total = sum(info["cost"] for info in infos)
    expected = (env.reference_total_cost - total) / env.reward_unit
    assert sum(rewards) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert sum(info["reference_cost"] for info in infos) == pytest.approx(env.reference_total_cost)


def test_random_actions_end_before_and_after_the_reference() -> None:
    # Otherwise the test above would not see that what the reference has left is credited.
    left = []
    for seed in SEEDS:
        env = small_env()
        _, infos = play(env, seed)
        engine = Engine(
            env.settings.scenario.profile, env.trace, env.settings.rule, table=env.settings.table
        )
        engine.run(RULE_POLICY)
        left.append(infos[-1]["now_s"] - engine.now_s)
    assert min(left) < 0 < max(left)


@pytest.mark.parametrize("arrivals", [Poisson(1.0), Poisson(3.0), ClosedLoop(8)])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_actions_of_the_rule_are_the_run_of_the_rule(seed: int, arrivals: Any) -> None:
    env = small_env(arrivals=arrivals)
    rewards, infos = play(env, seed, rule_action)
    settings = env.settings
    engine = Engine(settings.scenario.profile, env.trace, settings.rule, table=settings.table)
    assert engine.run(RULE_POLICY)
    assert infos[-1]["now_s"] == engine.now_s
    assert infos[-1]["num_decisions"] == len(rewards) == engine.state.n[S.NUM_DECISIONS]
    assert env.total_cost == engine.state.f[S.COST]
    assert sum(info["cost"] for info in infos) == pytest.approx(env.total_cost, rel=1e-12)
    assert env.reference_total_cost == pytest.approx(env.total_cost, rel=1e-12)
    assert sum(rewards) == pytest.approx(0.0, abs=1e-6)


def test_only_revisits_are_asked_without_ask_call() -> None:
    _, infos = play(small_env(ask_call=False), 0)
    assert {info["point"] for info in infos[:-1]} <= {int(S.NEW), int(S.RESUME), int(S.GROW)}


def test_terms_are_parts_of_the_cost() -> None:
    _, infos = play(small_env(), 0)
    for term in ("queueing_cost", "loading_cost", "recompute_s", "held_block_s"):
        assert sum(info[term] for info in infos) > 0
        assert min(info[term] for info in infos) > -1e-9
    for info in infos:
        assert info["queueing_cost"] + info["loading_cost"] <= info["cost"] + 1e-9


def test_elapsed_times_sum_to_the_clock() -> None:
    env = small_env()
    _, info = env.reset(seed=3)
    start_s = info["now_s"]
    assert info["dt_s"] == 0.0
    _, infos = play(env, 3)
    assert start_s + sum(i["dt_s"] for i in infos) == pytest.approx(infos[-1]["now_s"])


def test_a_horizon_truncates_at_the_first_decision_behind_it() -> None:
    env = small_env(horizon_s=20.0)
    rewards, infos = play(env, 0)
    assert infos[-1]["now_s"] >= 20.0 > infos[-2]["now_s"]
    assert infos[-1]["num_finished"] < NUM_SESSIONS
    observation, _, terminated, truncated, _ = env.step(0)
    assert truncated and not terminated
    assert observation.any()
    spent = sum(info["cost"] - info["reference_cost"] for info in infos)
    assert sum(rewards) == pytest.approx(-spent / env.reward_unit, abs=1e-9)


def illegal_swap_points(env: KVMemoryEnv, seed: int) -> dict[int, KVMemoryEnv]:
    """Forks of the environment where SWAP is not legal, by decision point."""
    found: dict[int, KVMemoryEnv] = {}
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    while True:
        if not info["action_mask"][S.SWAP]:
            found.setdefault(info["point"], env.fork())
        _, _, terminated, _, info = env.step(int(rng.integers(2)))
        if terminated:
            return found


def test_an_illegal_swap_keeps_at_a_call_and_discards_at_a_revisit() -> None:
    found = illegal_swap_points(small_env(num_host_blocks=40), 0)
    assert int(S.CALL) in found and len(found) > 1
    for point, env in found.items():
        twin = env.fork()
        before = twin.step(int(S.PRESERVE if point == S.CALL else S.DISCARD))
        after = env.step(int(S.SWAP))
        np.testing.assert_array_equal(before[0], after[0])
        assert before[1:4] == after[1:4]
        assert after[4]["illegal_swaps"] == before[4]["illegal_swaps"] + 1


def test_without_a_host_tier_nothing_is_swapped() -> None:
    env = small_env(num_host_blocks=0, render_mode="ansi")
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=0)
    points = set()
    terminated = False
    while not terminated:
        assert np.isfinite(observation).all() and not info["action_mask"][S.SWAP]
        points.add(info["point"])
        observation, reward, terminated, _, info = env.step(int(rng.integers(3)))
        assert np.isfinite(reward)
    assert "host" in str(env.render()) and len(points) == 4
    n = env._started().state.n[0]
    assert n[S.BLOCKS_OUT] == n[S.BLOCKS_IN] == 0 and n[S.RECOMPUTED_TOKENS] > 0
    assert info["num_finished"] == NUM_SESSIONS and info["illegal_swaps"] > 0


def test_a_fork_has_a_life_of_its_own() -> None:
    env = small_env()
    _, info = env.reset(seed=5)
    for _ in range(40):
        *_, info = env.step(0)
    twin = env.fork()
    ahead = [env.step(2)[1] for _ in range(30)]
    assert twin.dt_s == info["dt_s"]
    assert [twin.step(2)[1] for _ in range(30)] == ahead


def test_slots_grow_when_many_sessions_wait_for_tools() -> None:
    # More sessions in the system than the 64 slots that an engine starts with.
    env = KVMemoryEnv(arrivals=ClosedLoop(150), num_sessions=160, profile="gptj-6b-a100")
    rewards, infos = play(env, 0, rule_action)
    assert infos[-1]["num_finished"] == 160
    assert env._started().state.slot.shape[2] > 64
    assert sum(rewards) == pytest.approx(0.0, abs=1e-6)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="reward must be one of paired, cost"):
        small_env(reward="profit")
    with pytest.raises(InputError, match="horizon_s must be above 0"):
        small_env(horizon_s=0.0)
    with pytest.raises(InputError, match="render_mode must be one of"):
        small_env(render_mode="human")
    with pytest.raises(InputError, match="nothing is ever decided"):
        KVMemoryEnv(ask_call=False, arrivals=Poisson(0.01), num_sessions=2).reset(seed=0)
    env = small_env()
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(InputError, match="actions must be 0, 1 or 2"):
        env.step(3)


def test_a_scenario_gives_what_is_not_said() -> None:
    settings = KVMemoryEnv(scenario="crossover", num_sessions=7).settings
    assert settings.scenario.num_sessions == 7
    assert settings.scenario.profile.name == "gptj-6b-a100-40gb"
    assert small_settings().scenario.rate_per_s > 0


@pytest.mark.parametrize("rate_per_s", [0.5, 1.0, 4.0])
def test_observations_stay_in_their_ranges(rate_per_s: float) -> None:
    env = small_env(arrivals=Poisson(rate_per_s), num_host_blocks=100)
    rng = np.random.default_rng(0)
    for seed in SEEDS:
        observation, info = env.reset(seed=seed)
        terminated = False
        while not terminated:
            assert env.observation_space.contains(observation)
            assert info["action_mask"][[S.PRESERVE, S.DISCARD]].all()
            observation, _, terminated, _, info = env.step(int(rng.integers(3)))
        assert not observation.any()
        assert not info["action_mask"][S.SWAP]
