"""The network of both recipes: what it learns is the difference from a rule."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rlkv_agents.policy import NUM_VERBS


class Actor(nn.Module):
    """Two tanh layers whose logits get ``prior`` added to the rule's verb.

    The last three observations are the rule's verb, one-hot. The last layer starts at zero, so that
    the greedy policy is the rule, exactly, until training moves it.

    Args:
        num_features: numbers of an observation.
        hidden: width of both layers.
        prior: added to the logit of the rule's verb; 2 leaves the others a quarter of the draws.
    """

    def __init__(self, num_features: int, hidden: int, prior: float) -> None:
        super().__init__()
        self.prior = prior
        self.body = nn.Sequential(
            nn.Linear(num_features, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
        )
        self.head = nn.Linear(hidden, NUM_VERBS)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Logits of the verbs, legal or not; shape ``[batch, NUM_VERBS]``."""
        logits: torch.Tensor = self.head(self.body(observation))
        return logits + self.prior * observation[:, -NUM_VERBS:]

    def log_probability(self, observation: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the verbs, about -1e9 where not legal; shape as of the logits."""
        return torch.log_softmax(self(observation).masked_fill(~mask, -1e9), dim=1)

    def weights(self) -> list[NDArray[np.float64]]:
        """Weight and bias of the three layers, float64, as ``AgentPolicy.weights``."""
        layers = [m for m in (*self.body, self.head) if isinstance(m, nn.Linear)]
        return [
            tensor.detach().cpu().double().numpy().copy()
            for layer in layers
            for tensor in (layer.weight, layer.bias)
        ]
