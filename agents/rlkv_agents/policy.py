"""What is evaluated: a rule, or a network or trees that were learnt from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.advice import Advice
from rlkv_agents.base_rule import Rule
from rlkv_agents.tree_tensors import tree_tensors, trees_from
from rlkv_engine.estimates import PauseTable
from rlkv_engine.loop import Policy as CompiledPolicy
from rlkv_engine.loop import make_policy
from rlkv_engine.observe import FEATURES, STEPS_S
from rlkv_engine.tree import Trees
from rlkv_envs.scenario import Scenario

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


@dataclass(frozen=True, slots=True, eq=False)
class AgentPolicy:
    """A named policy: its rule orders the victims and answers, unless ``weights`` do.

    ``weights`` are ``weight_1 [hidden, num_features], bias_1 [hidden], weight_2 [hidden, hidden],
    bias_2 [hidden], weight_3 [3, hidden], bias_3 [3]`` of a tanh network; ``prior`` is added to the
    logit of the rule's verb, so that zero weights give exactly the rule. ``trees`` answer in their
    place; where a decision point has none, the rule does. The rule also answers outside
    ``trained_range`` (lowest and highest value of each feature, ``[num_features]`` each), and where
    the network would leave it with a probability below ``min_confidence``.

    With ``advice`` the rule's constants are those for the machine it is used ``on``, and the
    network answers only where it did on machines like it. With ``predicts_pauses`` pauses are known
    by predicted class, otherwise by tool.
    """

    name: str
    rule: Rule
    weights: Sequence[NDArray[np.float64]] | None = None
    prior: float = 0.0
    trained_range: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    trees: Trees | None = None
    min_confidence: float = 0.0
    predicts_pauses: bool = False
    advice: Advice | None = None

    def on(self, scenario: Scenario) -> AgentPolicy:
        """This policy with the rule that is right there, and it alone where nobody left it."""
        if self.advice is None:
            return self
        where = (scenario.profile, scenario.table)
        bound = replace(self, rule=self.advice.rule_for(*where), advice=None)
        return bound if self.advice.may_depart(*where) else replace(bound, weights=None, trees=None)

    @property
    def sees_future(self) -> bool:
        """True for reference points that use what nobody can know."""
        return self.rule.sees_future

    def table(self, scenario: Scenario) -> PauseTable:
        """What an engine that runs this policy on a scenario knows of pauses."""
        return scenario.predicted_table if self.predicts_pauses else scenario.table

    def compiled(self) -> CompiledPolicy:
        """The form that runs inside the engine's loop."""
        return make_policy(
            self.weights, self.prior, self.trained_range, self.trees, self.min_confidence
        )


#: Names of a policy's tensors: the network's, and the range it was trained on. Those of trees are
#: ``tree_tensors.TREE_TENSORS``.
NETWORK_TENSORS = ("weight_1", "bias_1", "weight_2", "bias_2", "weight_3", "bias_3")
RANGE_TENSORS = ("range_low", "range_high")
TENSORS = NETWORK_TENSORS + RANGE_TENSORS
ADVICE_TENSORS = (
    "advice_constants", "advice_machines", "advice_regret", "advice_orders", "advice_order_regret",
    "advice_departs",
)  # fmt: skip


def to_tensors(policy: AgentPolicy) -> dict[str, NDArray[Any]]:
    """The learned part of a policy as named arrays: float32, and int32 in trees.

    A plain rule becomes a network that says nothing, and answers nowhere but as the rule does;
    trees have no network beside them unless the policy has.
    """
    weights = policy.weights
    if weights is None and policy.trees is None:
        weights = [
            np.zeros((1, len(FEATURES))), np.zeros(1), np.zeros((1, 1)), np.zeros(1),
            np.zeros((NUM_VERBS, 1)), np.zeros(NUM_VERBS),
        ]  # fmt: skip
    unlimited = np.full(len(FEATURES), np.inf)
    low, high = policy.trained_range or (-unlimited, unlimited)
    names = TENSORS if weights is not None else RANGE_TENSORS
    tensors: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in zip(names, [*(weights or []), low, high], strict=True)
    }
    if policy.advice is not None:
        for name in ADVICE_TENSORS:
            array = getattr(policy.advice, name.removeprefix("advice_"))
            tensors[name] = np.ascontiguousarray(array, np.float32)
    return tensors if policy.trees is None else tensors | tree_tensors(policy.trees)


def from_tensors(
    name: str,
    rule: Rule,
    prior: float,
    tensors: Mapping[str, NDArray[Any]],
    min_confidence: float = 0.0,
    predicts_pauses: bool = False,
) -> AgentPolicy:
    """The policy that ``to_tensors`` took apart."""
    weights = None
    if TENSORS[0] in tensors:
        weights = [tensors[tensor].astype(np.float64) for tensor in NETWORK_TENSORS]
    low, high = (tensors[tensor].astype(np.float64) for tensor in RANGE_TENSORS)
    advice = None
    if ADVICE_TENSORS[0] in tensors:
        advice = Advice(*(tensors[tensor].astype(np.float64) for tensor in ADVICE_TENSORS))
    return AgentPolicy(
        name,
        rule,
        weights,
        prior,
        (low, high),
        trees_from(tensors),
        min_confidence,
        predicts_pauses,
        advice,
    )
