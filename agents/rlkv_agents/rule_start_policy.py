"""An actor-critic of stable-baselines3 that starts at a rule."""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import Any

from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import nn

from rlkv_agents.actor import Actor


class RuleStartPolicy(MaskableActorCriticPolicy):
    """``Actor`` beside a critic of the same shape.

    Args:
        prior: of the actor.
        hidden: width of the two tanh layers, of actor and critic each.
    """

    action_net: Actor

    def __init__(self, *args: Any, prior: float = 2.0, hidden: int = 64, **kwargs: Any) -> None:
        self._prior, self._hidden = prior, hidden
        # The actor has all its layers in one module, which SB3 takes for the last of them.
        kwargs["net_arch"] = {"pi": [], "vf": [hidden, hidden]}
        kwargs["activation_fn"] = nn.Tanh
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net = Actor(self.features_dim, self._hidden, self._prior)
        self.action_net.body.apply(partial(self.init_weights, gain=sqrt(2)))
        # The one that SB3 has just made would leave the actor as it is.
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )
