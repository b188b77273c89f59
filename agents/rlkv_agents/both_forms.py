"""The default recipe: both surrogates, from two starts, and validation chooses between them."""

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
    """Two learners that take turns, two rounds each: every validation judges the one at work.

    The clipped surrogate, which moves far, starts at the house rule's ``discarding`` form, the
    penalized one, which stays near, at the rule itself.
    """

    default_rounds = 32
    prior = ForkedLearner.prior
    traces_per_round = ForkedLearner.traces_per_round
    #: Rounds until the other one's turn: those between two validations.
    rounds_per_turn = 2

    def __init__(self, scenario: Scenario, rule: Rule, seed: int) -> None:
        super().__init__(scenario, rule, seed)
        self._members = (
            ForkedLearner(scenario, rule.discarding() if isinstance(rule, House) else rule, seed),
            PenalizedLearner(scenario, rule, seed),
        )
        self._at_work: ForkedLearner = self._members[0]
        self._steps = [0.0 for _ in self._members]

    def run_round(self, number: int) -> dict[str, float]:
        """A round of whoever's turn it is."""
        index = number // self.rounds_per_turn % len(self._members)
        self._at_work = self._members[index]
        self.form = self._at_work.form
        metrics = self._at_work.run_round(number)
        self._steps[index] = metrics["time/total_timesteps"]
        return metrics | {"time/total_timesteps": sum(self._steps)}

    def policy(self, name: str) -> AgentPolicy:
        """What the one at work has learnt."""
        return self._at_work.policy(name)

    def weights(self) -> Sequence[NDArray[np.float64]]:
        """Of the one at work."""
        return self._at_work.weights()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Both learners' tensors under the names of their forms, and the steps so far."""
        named = {
            f"{member.form}/{name}": array
            for member in self._members
            for name, array in member.tensors().items()
        }
        return named | {"steps": np.array(self._steps, np.int64)}

    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Both go on."""
        self._steps = [float(steps) for steps in tensors["steps"]]
        for member in self._members:
            start = f"{member.form}/"
            member.restore(
                {name[len(start) :]: a for name, a in tensors.items() if name.startswith(start)}
            )
