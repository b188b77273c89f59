"""What is evaluated: a rule, or a learned network that starts at one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.rules import Rule
from rlkv_engine.loop import Policy as CompiledPolicy
from rlkv_engine.loop import make_policy

#: PRESERVE, SWAP, DISCARD.
NUM_VERBS = 3


@dataclass(frozen=True, slots=True, eq=False)
class AgentPolicy:
    """A named policy: its rule orders the victims and answers, unless ``weights`` do.

    ``weights`` are ``weight_1 [hidden, num_features], bias_1 [hidden], weight_2 [hidden, hidden],
    bias_2 [hidden], weight_3 [3, hidden], bias_3 [3]`` of a tanh network; ``prior`` is added to the
    logit of the rule's verb, so that zero weights give exactly the rule.
    """

    name: str
    rule: Rule
    weights: Sequence[NDArray[np.float64]] | None = None
    prior: float = 0.0

    @property
    def sees_future(self) -> bool:
        """True for reference points that use what nobody can know."""
        return self.rule.sees_future

    def compiled(self) -> CompiledPolicy:
        """The form that runs inside the engine's loop."""
        return make_policy(self.weights, self.prior)
