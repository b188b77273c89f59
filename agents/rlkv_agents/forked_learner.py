"""The default recipe: PPO on forked advantages (docs/decisions/0004-forked-advantages.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlkv_agents.actor import Actor
from rlkv_agents.base_rule import Rule
from rlkv_agents.forked_ppo import CLIP, KL, UpdateSettings, update
from rlkv_agents.forking import fork_rollouts
from rlkv_agents.learner import Learner, optimizer_tensors, restore_optimizer
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.observe import NUM_FEATURES
from rlkv_envs.scenario import Scenario

HIDDEN = 32


class ForkedLearner(Learner):
    """A round: a few traces with the stochastic policy, forks at random decisions, PPO epochs."""

    default_rounds = 24
    prior = 1.5
    form = CLIP
    #: Smaller steps stay where everything thrashes (docs/decisions/0004-forked-advantages.md).
    learning_rate = 3e-3
    traces_per_round = 8
    forks_per_trace = 125
    #: Branches run for so many mean pauses: long enough for a choice to matter, short enough that
    #: later, unrelated choices do not drown it.
    horizon_pauses = 4.0

    def __init__(self, scenario: Scenario, rule: Rule, seed: int) -> None:
        super().__init__(scenario, rule, seed)
        torch.manual_seed(seed)
        self.settings = UpdateSettings(form=self.form)
        self.net = Actor(NUM_FEATURES, HIDDEN, self.prior)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=self.learning_rate)
        self._decisions = 0

    def run_round(self, number: int) -> dict[str, float]:
        """Forks on fresh training traces, then epochs of the clipped surrogate."""
        forks, num_decisions = fork_rollouts(
            self.scenario,
            AgentPolicy("learned", self.rule, self.weights(), self.prior),
            self.traces(number),
            forks_per_trace=self.forks_per_trace,
            horizon_s=self.horizon_pauses * self.scenario.table.mean_pause_s,
            rng=np.random.default_rng([self.seed, number]),
        )
        self._decisions += num_decisions
        self.meet(forks.observation)
        if not len(forks.mask):
            return {"time/total_timesteps": float(self._decisions)}
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        metrics = update(self.net, self.optimizer, forks, self.settings, generator)
        return metrics | {
            "time/total_timesteps": float(self._decisions),
            "rollout/num_forks": float(len(forks.mask)),
        }

    def weights(self) -> Sequence[NDArray[np.float64]]:
        """The actor's three layers."""
        return self.net.weights()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Network, Adam and the count of decisions."""
        arrays = {f"net.{k}": v.detach().numpy().copy() for k, v in self.net.state_dict().items()}
        arrays["extremes"] = self.extremes.astype(np.float32)
        arrays["decisions"] = np.array([self._decisions], np.int64)
        return optimizer_tensors(self.optimizer, arrays)

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Network, Adam and the count of decisions."""
        self.net.load_state_dict(
            {k[4:]: torch.as_tensor(v) for k, v in tensors.items() if k.startswith("net.")}
        )
        self.extremes = tensors["extremes"].astype(np.float64)
        self._decisions = int(tensors["decisions"][0])
        restore_optimizer(self.optimizer, tensors)


class PenalizedLearner(ForkedLearner):
    """The same with the surrogate that is penalized by its divergence: slower, and steadier."""

    default_rounds = 16
    learning_rate = 1e-3
    prior = 1.0
    form = KL
