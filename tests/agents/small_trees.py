"""Networks and trees whose answers can be read off."""

from __future__ import annotations

import numpy as np

from rlkv_agents.base_rule import Rule
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.observe import FEATURES, NUM_FEATURES
from rlkv_engine.state import CALL, DISCARD, NEW, PRESERVE, SWAP
from rlkv_engine.tree import AS_RULE, LEAF, NO_TREE, Trees

INDEX = {feature.name: i for i, feature in enumerate(FEATURES)}
#: Rankings of leaves.
KEEP, RULE_SAYS = [PRESERVE, AS_RULE, DISCARD, SWAP], [AS_RULE, PRESERVE, SWAP, DISCARD]


def waits_for(threshold: float, rule: Rule) -> AgentPolicy:
    """A network that keeps a candidate from a new session until ``remaining_pauses`` is over this.

    Elsewhere it answers as its rule, which must not keep anybody.
    """
    weight_1, bias_1 = np.zeros((2, NUM_FEATURES)), np.zeros(2)
    steep = 400.0
    weight_1[0, INDEX["remaining_pauses"]] = -steep
    weight_1[0, INDEX["point_new"]] = steep * 2
    bias_1[0] = steep * (threshold - 2)
    weight_2 = np.diag([10.0, 0.0])
    weight_3 = np.zeros((3, 2))
    weight_3[PRESERVE, 0] = 20.0
    weights = [weight_1, bias_1, weight_2, np.zeros(2), weight_3, np.array([0.0, 5.0, 5.0])]
    low, high = np.full(NUM_FEATURES, -np.inf), np.full(NUM_FEATURES, np.inf)
    high[CALL] = 0.5  # the first features say which decision point it is
    return AgentPolicy("waits", rule, weights, 4.0, (low, high))


def one_split() -> Trees:
    """For a new session: keep up to one mean pause, else as the rule; nothing for others."""
    return Trees(
        np.array([INDEX["remaining_pauses"], LEAF, LEAF]),
        np.array([0.5, 0.0, 0.0]),
        np.array([1, LEAF, LEAF]),
        np.array([2, LEAF, LEAF]),
        np.array([RULE_SAYS, KEEP, RULE_SAYS]),
        np.array([NO_TREE if point != NEW else 0 for point in range(4)]),
    )
