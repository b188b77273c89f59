"""The recipe without gradients: evolution strategies on linear scorers, started at the rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlkv_agents.base_rule import Rule
from rlkv_agents.evaluate import run_policy
from rlkv_agents.evolution import antithetic, slope
from rlkv_agents.forking import fork_rollouts
from rlkv_agents.learner import Learner, optimizer_tensors, restore_optimizer
from rlkv_agents.linear_scorer import SCORER_SHAPE, as_network
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario


@dataclass(frozen=True, slots=True)
class EvolutionSettings:
    """How one generation moves the scorer."""

    num_pairs: int = 16
    noise_std: float = 0.2  #: of each coefficient; features are of order 1, the prior is 1
    learning_rate: float = 0.1


class EvolutionLearner(Learner):
    """A round is a generation: every member on the same few fresh traces, one step of Adam.

    What is minimized is the mean log ratio of a member's latency to the rule's on the same trace,
    that is the geometric mean of the ratios.
    """

    default_rounds = 24
    prior = 1.0
    traces_per_round = 4
    settings = EvolutionSettings()
    #: Decisions of a round whose observations are noted, for the range that training met.
    noted_per_trace = 250

    def __init__(self, scenario: Scenario, rule: Rule, seed: int) -> None:
        super().__init__(scenario, rule, seed)
        self.scorer = torch.nn.Parameter(torch.zeros(SCORER_SHAPE))
        self.optimizer = torch.optim.Adam([self.scorer], lr=self.settings.learning_rate)
        self._decisions = 0

    def run_round(self, number: int) -> dict[str, float]:
        """One generation on fresh training traces."""
        settings = self.settings
        rng = np.random.default_rng([self.seed, number])
        traces = self.traces(number)
        centre = self.scorer.detach().numpy().copy()
        noise = antithetic(rng, settings.num_pairs, SCORER_SHAPE)
        base = np.log([self._run(None, trace) for trace in traces])
        costs = np.empty(len(noise))
        for i, direction in enumerate(noise):
            weights = as_network(centre + np.float32(settings.noise_std) * direction)
            costs[i] = np.mean(np.log([self._run(weights, trace) for trace in traces]) - base)
        self._note_range(traces, rng)
        self.optimizer.zero_grad()
        self.scorer.grad = torch.as_tensor(slope(noise, costs, settings.noise_std))
        self.optimizer.step()
        return {
            "time/total_timesteps": float(self._decisions),
            "train/learning_rate": settings.learning_rate,
            "train/loss": float(costs.mean()),
            "train/loss_min": float(costs.min()),
            "train/grad_norm": float(self.scorer.grad.norm()),
        }

    def weights(self) -> Sequence[NDArray[np.float64]]:
        """The scorer as a network."""
        return as_network(self.scorer.detach().numpy())

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Scorer, Adam and the count of decisions."""
        arrays: dict[str, NDArray[Any]] = {
            "scorer": self.scorer.detach().numpy().copy(),
            "extremes": self.extremes.astype(np.float32),
            "decisions": np.array([self._decisions], np.int64),
        }
        return optimizer_tensors(self.optimizer, arrays)

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Scorer, Adam and the count of decisions."""
        scorer = tensors["scorer"]
        if scorer.shape != SCORER_SHAPE:
            raise ValueError(f"a scorer of shape {scorer.shape}, not {SCORER_SHAPE}")
        with torch.no_grad():
            self.scorer.copy_(torch.as_tensor(scorer.copy()))
        self.extremes = tensors["extremes"].astype(np.float64)
        self._decisions = int(tensors["decisions"][0])
        restore_optimizer(self.optimizer, tensors)

    def _run(self, weights: Sequence[NDArray[np.float64]] | None, trace: Trace) -> float:
        # Mean normalized latency, s/token; without weights the rule's.
        result = run_policy(
            self.scenario, AgentPolicy("member", self.rule, weights, self.prior), trace
        )
        self._decisions += result.num_decisions
        return result.mean_latency_s

    def _note_range(self, traces: Sequence[Trace], rng: np.random.Generator) -> None:
        # Sampled as forks are, with branches that end at once.
        centre = AgentPolicy("centre", self.rule, self.weights(), self.prior)
        sampled, _ = fork_rollouts(
            self.scenario,
            centre,
            traces,
            forks_per_trace=self.noted_per_trace,
            horizon_s=0.0,
            rng=rng,
        )
        self.meet(sampled.observation)
