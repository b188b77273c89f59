"""What the training loop asks of a recipe: rounds of learning that can be resumed exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.base_rule import Rule
from rlkv_agents.policy import AgentPolicy, range_of
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

#: Seeds of training traces start here for every training seed, far from each other.
SEED_STRIDE = 1_000_000


class Learner(ABC):
    """One recipe at work on one scenario, started at a rule.

    A round depends on the tensors, the seed and the round's number alone, so that training that is
    interrupted and resumed gives the same policy as training that is not.
    """

    #: Rounds after which a run of the default length ends.
    default_rounds: int
    #: Logit of the rule's verb in the policy.
    prior: float
    traces_per_round: int
    #: What its snapshots are told apart by in the picture of learning.
    form: str = ""

    def __init__(self, scenario: Scenario, rule: Rule, seed: int) -> None:
        self.scenario = scenario
        self.rule = rule
        self.seed = seed
        #: Lowest and highest value of each feature met so far.
        self.extremes = np.stack([np.full(NUM_FEATURES, np.inf), np.full(NUM_FEATURES, -np.inf)])

    @abstractmethod
    def run_round(self, number: int) -> dict[str, float]:
        """One round of rollouts and updates; metrics under SB3's names, with the steps so far."""

    def judge(self, score: float) -> None:  # noqa: B027
        """Hears of a snapshot's validation: its score less the start's, below 0 where it is better.

        Most do not mind.
        """

    @abstractmethod
    def weights(self) -> Sequence[NDArray[np.float64]]:
        """The actor as ``AgentPolicy.weights``."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything the next round depends on, for a checkpoint."""

    @abstractmethod
    def restore(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Go on from ``tensors`` of a learner with the same arguments."""

    def policy(self, name: str) -> AgentPolicy:
        """What has been learnt so far, within what has been met so far."""
        return AgentPolicy(
            name,
            self.rule,
            self.weights(),
            self.prior,
            range_of(self.extremes[0], self.extremes[1]),
        )

    def meet(self, observations: NDArray[np.float32]) -> None:
        """Note the range of observations of shape ``[n, num_features]``."""
        if len(observations):
            self.extremes[0] = np.minimum(self.extremes[0], observations.min(axis=0))
            self.extremes[1] = np.maximum(self.extremes[1], observations.max(axis=0))

    @classmethod
    def trace_seeds(cls, seed: int, number: int) -> range:
        """Seeds of the training traces of a round."""
        first = SEED_STRIDE * (seed + 1) + number * cls.traces_per_round
        return range(first, first + cls.traces_per_round)

    def traces(self, number: int) -> list[Trace]:
        """The training traces of a round."""
        return [self.scenario.trace(s, "train") for s in self.trace_seeds(self.seed, number)]


def optimizer_tensors(
    optimizer: object, named: dict[str, NDArray[Any]] | None = None
) -> dict[str, NDArray[Any]]:
    """State of a torch Adam as named arrays, in the order of its parameters."""
    import torch

    assert isinstance(optimizer, torch.optim.Optimizer)
    arrays = dict(named or {})
    for i, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            arrays[f"optimizer.{i}.{key}"] = np.atleast_1d(
                torch.as_tensor(value).detach().float().numpy()
            ).copy()
    return arrays


def restore_optimizer(optimizer: object, arrays: dict[str, NDArray[Any]]) -> None:
    """Put back what ``optimizer_tensors`` took."""
    import torch

    assert isinstance(optimizer, torch.optim.Optimizer)
    document = optimizer.state_dict()
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, array in arrays.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            tensor = torch.as_tensor(array.copy())
            state.setdefault(int(i), {})[key] = tensor[0] if key == "step" else tensor
    document["state"] = state
    optimizer.load_state_dict(document)
