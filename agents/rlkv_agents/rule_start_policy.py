"""An actor-critic that starts at a rule: the network learns only the difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import nn

from rlkv_agents.policy import NUM_VERBS


class RuleStartPolicy(MaskableActorCriticPolicy):
    """MLP policy whose logits are the network's plus ``prior`` on the rule's verb.

    The last three observations are the rule's verb, one-hot. The last layer starts at zero, so that
    the greedy policy is the rule, exactly, until training moves it.

    Args:
        prior: added to the logit of the rule's verb; 2 leaves the others a quarter of the draws.
        hidden: width of the two tanh layers, of actor and critic each.
    """

    def __init__(self, *args: Any, prior: float = 2.0, hidden: int = 64, **kwargs: Any) -> None:
        self.prior = prior
        kwargs["net_arch"] = {"pi": [hidden, hidden], "vf": [hidden, hidden]}
        kwargs["activation_fn"] = nn.Tanh
        super().__init__(*args, **kwargs)
        assert isinstance(self.action_net, nn.Linear)
        nn.init.zeros_(self.action_net.weight)
        nn.init.zeros_(self.action_net.bias)

    def _add_prior(self, logits: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        return logits + self.prior * obs[:, -NUM_VERBS:]

    def _distribution(
        self, latent_pi: torch.Tensor, obs: torch.Tensor, action_masks: Any
    ) -> MaskableDistribution:
        logits = self._add_prior(self.action_net(latent_pi), obs)
        distribution = self.action_dist.proba_distribution(action_logits=logits)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution

    def forward(
        self,
        obs: torch.Tensor,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Action, value and log-probability; shapes ``[batch], [batch, 1], [batch]``."""
        latent_pi, latent_vf = self.mlp_extractor(obs)
        distribution = self._distribution(latent_pi, obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.value_net(latent_vf), distribution.log_prob(actions)

    def evaluate_actions(
        self,
        obs: torch.Tensor,
        actions: torch.Tensor,
        action_masks: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Value, log-probability and entropy of given actions."""
        latent_pi, latent_vf = self.mlp_extractor(obs)
        distribution = self._distribution(latent_pi, obs, action_masks)
        return self.value_net(latent_vf), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any, action_masks: Any = None) -> MaskableDistribution:
        """The masked distribution over verbs."""
        return self._distribution(self.mlp_extractor.forward_actor(obs), obs, action_masks)

    def actor_weights(self) -> list[np.ndarray]:
        """The actor as plain arrays: weight and bias of three layers, float64."""
        layers = [
            module
            for module in (*self.mlp_extractor.policy_net, self.action_net)
            if isinstance(module, nn.Linear)
        ]
        return [
            tensor.detach().cpu().double().numpy().copy()
            for layer in layers
            for tensor in (layer.weight, layer.bias)
        ]
