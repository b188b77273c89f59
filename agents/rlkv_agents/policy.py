"""What is evaluated: a rule, or a learned network that starts at one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.advice import Advice
from rlkv_agents.rules import Rule
from rlkv_engine.estimates import PauseTable
from rlkv_engine.loop import Policy as CompiledPolicy
from rlkv_engine.loop import make_policy
from rlkv_engine.observe import FEATURES, STEPS_S
from rlkv_engine.profile import Profile

#: PRESERVE, SWAP, DISCARD.
NUM_VERBS = 3
#: Features that say what machine and what pauses these are, rather than how busy it is just now:
#: outside what training met of them a network has no business to answer.
RANGE_FEATURES = (
    "point_call",
    "host_size",
    "link_speed",
    "context",
    "link_over_recompute",
    "recompute_pauses",
    "remaining_pauses",
    *(f"remaining_{step:g}s" for step in STEPS_S),
)
#: Slack on either side, as a share of the range met.
RANGE_SLACK = 0.05


def range_of(
    lowest: NDArray[np.float64], highest: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The trained range from the extremes met in training, each ``[num_features]``."""
    slack = RANGE_SLACK * (highest - lowest) + 1e-3
    checked = np.array([feature.name in RANGE_FEATURES for feature in FEATURES])
    return np.where(checked, lowest - slack, -np.inf), np.where(checked, highest + slack, np.inf)


class Deployment(Protocol):
    """The machine and the pauses that a policy is used with, as a ``Scenario`` has them."""

    @property
    def profile(self) -> Profile:
        """Costs and pools of the machine."""

    @property
    def table(self) -> PauseTable:
        """What is known of its pauses."""


@dataclass(frozen=True, slots=True, eq=False)
class AgentPolicy:
    """A named policy: its rule orders the victims and answers, unless ``weights`` do.

    ``weights`` are ``weight_1 [hidden, num_features], bias_1 [hidden], weight_2 [hidden, hidden],
    bias_2 [hidden], weight_3 [3, hidden], bias_3 [3]`` of a tanh network; ``prior`` is added to the
    logit of the rule's verb, so that zero weights give exactly the rule. The rule answers outside
    ``trained_range`` (lowest and highest value of each feature, ``[num_features]`` each), and where
    the network would leave it with a probability below ``min_confidence``.

    With ``advice`` the rule's constants are those for the machine it is used ``on``.
    """

    name: str
    rule: Rule
    weights: Sequence[NDArray[np.float64]] | None = None
    prior: float = 0.0
    trained_range: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    min_confidence: float = 0.0
    advice: Advice | None = None

    def on(self, deployment: Deployment) -> AgentPolicy:
        """This policy with the rule that is right there."""
        if self.advice is None:
            return self
        rule = self.advice.rule_for(deployment.profile, deployment.table)
        return replace(self, rule=rule, advice=None)

    @property
    def sees_future(self) -> bool:
        """True for reference points that use what nobody can know."""
        return self.rule.sees_future

    def compiled(self) -> CompiledPolicy:
        """The form that runs inside the engine's loop."""
        return make_policy(self.weights, self.prior, self.trained_range, self.min_confidence)


#: Names of a policy's tensors: the network's, and the range it was trained on.
TENSORS = (
    "weight_1", "bias_1", "weight_2", "bias_2", "weight_3", "bias_3", "range_low", "range_high",
)  # fmt: skip


def to_tensors(policy: AgentPolicy) -> dict[str, NDArray[np.float32]]:
    """The learned part of a policy as named float32 arrays.

    A plain rule becomes a network that says nothing, and answers nowhere but as the rule does.
    """
    weights = policy.weights
    if weights is None:
        weights = [
            np.zeros((1, len(FEATURES))), np.zeros(1), np.zeros((1, 1)), np.zeros(1),
            np.zeros((NUM_VERBS, 1)), np.zeros(NUM_VERBS),
        ]  # fmt: skip
    unlimited = np.full(len(FEATURES), np.inf)
    low, high = policy.trained_range or (-unlimited, unlimited)
    return {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in zip(TENSORS, [*weights, low, high], strict=True)
    }


def from_tensors(
    name: str, rule: Rule, prior: float, tensors: Mapping[str, NDArray[np.float32]]
) -> AgentPolicy:
    """The policy that ``to_tensors`` took apart."""
    *weights, low, high = (tensors[tensor].astype(np.float64) for tensor in TENSORS)
    return AgentPolicy(name, rule, weights, prior, (low, high))
