"""The reference recipe: MaskablePPO of sb3-contrib with generalized advantages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO

from rlkv_agents.base_rule import Rule
from rlkv_agents.learner import Learner, optimizer_tensors, restore_optimizer
from rlkv_agents.rule_start_policy import RuleStartPolicy
from rlkv_agents.semi_markov import SemiMarkovBuffer
from rlkv_agents.vec_env import KVMemoryVecEnv
from rlkv_envs.scenario import Scenario
from rlkv_envs.vector import KVMemoryVectorEnv


class GaeLearner(Learner):
    """A round: a few rollouts of 64 engines on fresh traces, and SB3's epochs after each."""

    default_rounds = 16
    prior = 0.7
    num_envs = 64
    num_steps = 256
    rollouts_per_round = 4
    traces_per_round = 16

    def __init__(self, scenario: Scenario, rule: Rule, seed: int) -> None:
        super().__init__(scenario, rule, seed)
        self._model: MaskablePPO | None = None
        self._restored: dict[str, NDArray[Any]] | None = None

    def run_round(self, number: int) -> dict[str, float]:
        """Rollouts and updates on traces of this round alone."""
        env = self._make_env(number)
        model = self._model_on(env)
        env.seed(1000 * self.seed + number)  # building a model seeds its environment too
        torch.manual_seed(1000 * self.seed + number)
        np.random.seed(1000 * self.seed + number)  # SB3 shuffles minibatches with the global one
        model.learn(
            self.num_envs * self.num_steps * self.rollouts_per_round, reset_num_timesteps=False
        )
        observations = model.rollout_buffer.observations
        self.meet(observations.reshape(-1, observations.shape[-1]))
        values = model.logger.name_to_value
        return {key: float(value) for key, value in values.items() if key.startswith("train/")} | {
            "time/total_timesteps": float(model.num_timesteps)
        }

    def weights(self) -> Sequence[NDArray[np.float64]]:
        """The actor's three layers."""
        if self._model is None:
            self._model_on(self._make_env(0))
        assert self._model is not None
        policy = self._model.policy
        assert isinstance(policy, RuleStartPolicy)
        return policy.action_net.weights()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Policy, Adam and the count of steps."""
        assert self._model is not None
        state = self._model.policy.state_dict()
        arrays = {f"net.{k}": v.detach().numpy().copy() for k, v in state.items()}
        arrays["extremes"] = self.extremes.astype(np.float32)
        arrays["steps"] = np.array([self._model.num_timesteps], np.int64)
        return optimizer_tensors(self._model.policy.optimizer, arrays)

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Policy, Adam and the count of steps."""
        self._restored = tensors
        self.extremes = tensors["extremes"].astype(np.float64)
        self._model_on(self._make_env(0))

    def _make_env(self, number: int) -> KVMemoryVecEnv:
        scenario = self.scenario
        vector = KVMemoryVectorEnv(
            self.num_envs,
            traces=self.traces(number),
            profile=scenario.profile,
            workload=scenario.workload,
            table=scenario.table,
            rule=self.rule.params(scenario.table),
            num_sessions=scenario.num_sessions,
            ask_call=False,
        )
        return KVMemoryVecEnv(vector, seed=1000 * self.seed + number)

    def _model_on(self, env: KVMemoryVecEnv) -> MaskablePPO:
        mean_s = self.scenario.table.mean_pause_s
        if self._model is None:
            self._model = MaskablePPO(
                RuleStartPolicy,
                env,
                n_steps=self.num_steps,
                batch_size=4096,
                n_epochs=4,
                learning_rate=3e-3,
                ent_coef=0.002,
                target_kl=0.03,
                rollout_buffer_class=SemiMarkovBuffer,
                rollout_buffer_kwargs={
                    "env": env,
                    "discount_s": 3.0 * mean_s,
                    "trace_s": mean_s,
                },
                policy_kwargs={"prior": self.prior},
                seed=self.seed,
                device="cpu",
            )
        else:
            self._model.set_env(env)
        buffer = self._model.rollout_buffer
        assert isinstance(buffer, SemiMarkovBuffer)
        buffer.env = env
        if self._restored is not None:
            state = {
                k[4:]: torch.as_tensor(v) for k, v in self._restored.items() if k[:4] == "net."
            }
            self._model.policy.load_state_dict(state)
            self._model.num_timesteps = int(self._restored["steps"][0])
            restore_optimizer(self._model.policy.optimizer, self._restored)
            self._restored = None
        return self._model
