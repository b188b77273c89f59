"""The default recipe: both surrogates, from two starts; the one that validates better goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.base_rule import Rule
from rlkv_agents.forked_learner import ForkedLearner, PenalizedLearner
from rlkv_agents.house_rule import House
from rlkv_agents.learner import Learner
from rlkv_agents.policy import AgentPolicy
from rlkv_envs.scenario import Scenario


class BothForms(Learner):
    """Two learners that take turns of two rounds: every validation judges the one at work.

    The clipped surrogate, which has far to go, starts at the house rule's ``discarding`` form and
    has two turns for each of the penalized one, which stays near the rule that it starts at. From
    ``rounds_of_both`` on, where either has passed the start, the one whose best snapshot is behind
    has no more turns.
    """

    default_rounds = 20
    #: Those between two validations.
    rounds_per_turn = 2
    #: Whose turn it is, over and over: indices of the members.
    turns = (0, 0, 1)
    rounds_of_both = 18

    def __init__(self, scenario: Scenario, rule: Rule, seed: int) -> None:
        super().__init__(scenario, rule, seed)
        self._members = (
            ForkedLearner(scenario, rule.discarding() if isinstance(rule, House) else rule, seed),
            PenalizedLearner(scenario, rule, seed),
        )
        self._index = 0
        self._steps = [0.0 for _ in self._members]
        # Of the best snapshot of each; float32, as checkpoints keep it.
        self._scores = np.full(len(self._members), np.inf, np.float32)

    def run_round(self, number: int) -> dict[str, float]:
        """A round of whoever's turn it is."""
        if number >= self.rounds_of_both and self._scores.min() < 0.0:
            self._index = int(np.argmin(self._scores))
        else:
            self._index = self.turns[number // self.rounds_per_turn % len(self.turns)]
        self.form = self._at_work.form
        metrics = self._at_work.run_round(number)
        self._steps[self._index] = metrics["time/total_timesteps"]
        return metrics | {"time/total_timesteps": sum(self._steps)}

    def judge(self, score: float) -> None:
        """A validation of the one at work."""
        self._scores[self._index] = min(self._scores[self._index], np.float32(score))

    @property
    def _at_work(self) -> ForkedLearner:
        return self._members[self._index]

    @classmethod
    def trace_seeds(cls, seed: int, number: int) -> range:
        """Those of whoever's turn it is."""
        return ForkedLearner.trace_seeds(seed, number)

    def policy(self, name: str) -> AgentPolicy:
        """What the one at work has learnt."""
        return self._at_work.policy(name)

    def weights(self) -> Sequence[NDArray[np.float64]]:
        """Of the one at work."""
        return self._at_work.weights()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Both learners' tensors under the names of their forms, their steps and best scores."""
        named = {
            f"{member.form}/{name}": array
            for member in self._members
            for name, array in member.tensors().items()
        }
        return named | {"steps": np.array(self._steps, np.int64), "scores": self._scores.copy()}

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Both go on."""
        self._steps = [float(steps) for steps in tensors["steps"]]
        self._scores = tensors["scores"].astype(np.float32)
        for member in self._members:
            start = f"{member.form}/"
            member.restore(
                {name[len(start) :]: a for name, a in tensors.items() if name.startswith(start)}
            )
