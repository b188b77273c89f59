"""How fast training is: PPO beside PPO on nothing, forks, and the memory that both take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecEnv

from rlkv.bench.measure import Size
from rlkv.bench.memory import evaluation_growth_bytes, training_peak_rss_bytes
from rlkv_agents.checkpoint import CurvePoint
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.forking import fork_rollouts
from rlkv_agents.gae_learner import GaeLearner
from rlkv_agents.house_rule import House
from rlkv_agents.learning_curve import learning_curve
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rule_start_policy import RuleStartPolicy
from rlkv_agents.semi_markov import SemiMarkovBuffer
from rlkv_agents.train import START_RULE
from rlkv_agents.tune import NUM_VALIDATION, tune, validation_traces
from rlkv_agents.vec_env import KVMemoryVecEnv
from rlkv_engine.trace import Trace
from rlkv_envs.observation import action_space, observation_space
from rlkv_envs.scenario import Scenario, load_scenario
from rlkv_envs.vector import KVMemoryVectorEnv

SCENARIO = "crossover-slow"
#: As in ``GaeLearner``; without its early stop, so that both sides do all their epochs.
BATCH, EPOCHS, LEARNING_RATE, ENTROPY = 4096, 4, 3e-3, 0.002


def train(size: Size) -> dict[str, Any]:
    """PPO steps per CPU second against a trivial environment, forks/s, bytes."""
    torch.set_num_threads(1)
    scenario = load_scenario(SCENARIO).with_sessions(size.train_sessions)
    figures = _ppo(scenario, size)
    figures["forks_per_s"] = _forks_per_s(scenario, size)
    if size.pass_rounds:
        figures |= passing_cpu_s(scenario.with_sessions(size.pass_sessions), size.pass_rounds)
    if size.train_rounds:
        figures["peak_rss_bytes"] = training_peak_rss_bytes(
            SCENARIO, size.train_sessions, size.train_rounds
        )
    growth = {count: evaluation_growth_bytes(count) for count in size.evaluated_sessions}
    for count, grown in growth.items():
        figures[f"evaluation_growth_bytes_{count}_sessions"] = grown["growth_bytes"]
        figures[f"evaluation_trace_bytes_{count}_sessions"] = grown["trace_bytes"]
    if len(growth) > 1:
        small, large = min(growth), max(growth)
        difference = growth[large]["growth_bytes"] - growth[small]["growth_bytes"]
        figures["evaluation_growth_bytes_per_session"] = difference / (large - small)
    return {
        "figures": figures,
        "measured_on": {
            "scenario": SCENARIO,
            "sessions_per_episode": size.train_sessions,
            "ppo": f"{size.train_envs} x {size.train_steps} steps, batch {BATCH}, {EPOCHS} epochs",
            "forks": f"{size.forks_per_trace} decisions of each of"
            f" {ForkedLearner.traces_per_round} traces",
            "passing": f"{NUM_VALIDATION} validation traces of {size.pass_sessions} sessions after"
            f" every round of forked-ppo, at most {size.pass_rounds} rounds",
            "training": f"rlkv train --scenario {SCENARIO} --rounds {size.train_rounds}",
            "repetitions": size.repetitions,
        },
    }


def passing_cpu_s(scenario: Scenario, max_rounds: int) -> dict[str, float]:
    """CPU seconds until the default recipe has passed the tuned house rule on validation traces.

    Passed is where the mean log ratio plus half its standard error is below 0. Compiling is not
    counted. A learner that does not get there leaves its figures out.
    """
    small = scenario.with_sessions(40)
    start = AgentPolicy(START_RULE, House())
    _pass(small, start, validation_traces(small, 2), max_rounds=1)  # compiles
    since = time.process_time()
    traces = validation_traces(scenario)
    start = AgentPolicy(START_RULE, tune(scenario, START_RULE, traces).rule)
    tune_s = time.process_time() - since
    figures = {"cpu_s_to_tune_rule": tune_s}
    curve = _pass(scenario, start, traces, max_rounds)
    if curve[-1]["score"] < 0.0:
        figures["cpu_s_to_pass_rule"] = time.process_time() - since
        figures["cpu_s_to_pass_tuned_rule"] = curve[-1]["cpu_s"]
        figures["validation_ratio_when_passed"] = (
            curve[-1]["validation_s"] / curve[0]["validation_s"]
        )
    return figures


def _pass(
    scenario: Scenario, start: AgentPolicy, traces: Sequence[Trace], max_rounds: int
) -> list[CurvePoint]:
    return learning_curve(
        scenario,
        start,
        "forked-ppo",
        0,
        traces,
        is_enough=lambda point: point["score"] < 0.0,
        max_rounds=max_rounds,
    )


class TrivialVecEnv(VecEnv):
    """The same spaces as ours for SB3; a step returns zeros and an episode never ends."""

    def __init__(self, num_envs: int) -> None:
        self.render_mode = None
        super().__init__(num_envs, observation_space(), action_space())
        self._observation = np.zeros((num_envs, *observation_space().shape), np.float32)
        self._infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]

    def reset(self) -> NDArray[np.float32]:
        """Zeros."""
        return self._observation.copy()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Takes no notice."""

    def step_wait(self) -> tuple[Any, ...]:
        """Zeros."""
        rewards, dones = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        return self._observation.copy(), rewards, dones, self._infos

    def close(self) -> None:
        """Nothing is open."""

    def action_masks(self) -> NDArray[np.bool_]:
        """Everything is legal."""
        return np.ones((self.num_envs, 3), np.bool_)

    def has_attr(self, attr_name: str) -> bool:
        """As ``VecEnv``."""
        return hasattr(self, attr_name)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same for every environment."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """For all of them."""
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Masks, row by row."""
        return list(getattr(self, method_name)(*method_args, **method_kwargs))

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Nothing is."""
        return [False] * self.num_envs


def _ppo(scenario: Scenario, size: Size) -> dict[str, float]:
    """Steps per CPU second of both, measured in turn so that a slow minute hits both."""
    mean_s = scenario.table.mean_pause_s
    env = KVMemoryVecEnv(
        KVMemoryVectorEnv(
            size.train_envs,
            num_traces=GaeLearner.traces_per_round,
            scenario=scenario,
            split="train",
            ask_call=False,
        ),
        seed=0,
    )
    settings: dict[str, Any] = {
        "n_steps": size.train_steps,
        "batch_size": min(BATCH, size.train_envs * size.train_steps),
        "n_epochs": EPOCHS,
        "learning_rate": LEARNING_RATE,
        "ent_coef": ENTROPY,
        "seed": 0,
        "device": "cpu",
    }
    ours = MaskablePPO(
        RuleStartPolicy,
        env,
        rollout_buffer_class=SemiMarkovBuffer,
        rollout_buffer_kwargs={"env": env, "discount_s": 3.0 * mean_s, "trace_s": mean_s},
        policy_kwargs={"prior": GaeLearner.prior},
        **settings,
    )
    trivial = MaskablePPO("MlpPolicy", TrivialVecEnv(size.train_envs), **settings)
    steps = size.train_envs * size.train_steps
    cpu_s: dict[str, list[float]] = {"ours": [], "trivial": []}
    for repetition in range(size.repetitions + 1):
        for name, model in (("ours", ours), ("trivial", trivial)):
            start = time.process_time()
            model.learn(steps, reset_num_timesteps=False)
            if repetition > 0:
                cpu_s[name].append(time.process_time() - start)
    ours_s, trivial_s = (float(np.median(cpu_s[name])) for name in ("ours", "trivial"))
    return {
        "steps_per_cpu_s": steps / ours_s,
        "steps_per_cpu_s_sb3_trivial": steps / trivial_s,
        "steps_per_cpu_s_over_sb3_trivial": trivial_s / ours_s,
    }


def _forks_per_s(scenario: Scenario, size: Size) -> float:
    """Branches run for each CPU second, by a network as large as the trained one."""
    rule = House()
    learner = ForkedLearner(scenario, rule, seed=0)
    policy = AgentPolicy("learned", rule, learner.weights(), learner.prior)
    traces = [scenario.trace(seed, "train") for seed in range(learner.traces_per_round)]
    speeds: Sequence[float] = [
        _fork_speed(scenario, policy, traces, size, learner.horizon_pauses, repetition)
        for repetition in range(size.repetitions + 1)
    ][1:]
    return float(np.median(speeds))


def _fork_speed(
    scenario: Scenario,
    policy: AgentPolicy,
    traces: Sequence[Any],
    size: Size,
    horizon_pauses: float,
    seed: int,
) -> float:
    start = time.process_time()
    forks, _ = fork_rollouts(
        scenario,
        policy,
        traces,
        forks_per_trace=size.forks_per_trace,
        horizon_s=horizon_pauses * scenario.table.mean_pause_s,
        rng=np.random.default_rng(seed),
    )
    return float(forks.mask.sum() / (time.process_time() - start))
