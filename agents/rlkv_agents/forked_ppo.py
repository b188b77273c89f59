"""PPO with forked advantages: the clipped surrogate over all legal verbs of forked decisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rlkv_agents.actor import Actor
from rlkv_agents.forking import Forks

#: Surrogates: PPO's clipped one, or the plain gain less a penalty on the divergence (Schulman et
#: al., 2017, equations 7 and 8). Each wins somewhere (docs/decisions/0004-forked-advantages.md).
CLIP, KL = FORMS = ("clip", "kl")


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """How one round of forks moves the policy."""

    form: str = CLIP
    clip_range: float = 0.3
    kl_coef: float = 0.3  #: of the KL form
    batch_size: int = 256
    num_epochs: int = 15
    target_kl: float = 0.075
    entropy_coef: float = 0.005
    #: Advantages are divided by the round's standard deviation, then clipped to this.
    advantage_clip: float = 3.0


def advantages(forks: Forks, clip: float) -> NDArray[np.float64]:
    """Cost expected under the policy less the cost of each verb, in standard deviations."""
    expected = (forks.probability * forks.cost).sum(axis=1, keepdims=True)
    advantage = np.where(forks.mask, expected - forks.cost, 0.0)
    spread = float(advantage[forks.mask].std())
    return np.clip(advantage / (spread + 1e-12), -clip, clip)


def update(
    net: Actor,
    optimizer: torch.optim.Optimizer,
    forks: Forks,
    settings: UpdateSettings,
    generator: torch.Generator,
) -> dict[str, float]:
    """One round of PPO on forked decisions; returns SB3's ``train/`` metrics.

    The surrogate is an exact expectation over the verbs rather than one sample: ``sum over verbs of
    pi_old(v) * min(ratio A, clip(ratio) A)``, or ``sum of pi(v) A - kl_coef * KL(pi, pi_old)``.
    """
    observation = torch.as_tensor(forks.observation)
    mask = torch.as_tensor(forks.mask)
    old = torch.as_tensor(forks.probability, dtype=torch.float32)
    advantage = torch.as_tensor(advantages(forks, settings.advantage_clip), dtype=torch.float32)
    num = len(observation)
    kl, loss_value, entropy_loss, clipped = 0.0, 0.0, 0.0, 0.0
    epochs = 0
    for _ in range(settings.num_epochs):
        order = torch.randperm(num, generator=generator)
        for batch in torch.split(order, settings.batch_size):
            log_new = net.log_probability(observation[batch], mask[batch]).clamp_min(-50.0)
            new = log_new.exp()
            if settings.form == CLIP:
                ratio = new / old[batch].clamp_min(1e-6)
                capped = ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range)
                gain = torch.minimum(ratio * advantage[batch], capped * advantage[batch])
                objective = (old[batch] * gain).sum(dim=1).mean()
            else:
                log_old = old[batch].clamp_min(1e-9).log()
                divergence = (new * (log_new - log_old)).sum(dim=1)
                gain = (new * advantage[batch]).sum(dim=1)
                objective = (gain - settings.kl_coef * divergence).mean()
            entropy = -(new * log_new).sum(dim=1).mean()
            loss = -objective - settings.entropy_coef * entropy
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            loss_value, entropy_loss = float(loss.detach()), -float(entropy.detach())
        epochs += 1
        with torch.no_grad():
            log_new = net.log_probability(observation, mask)
            log_old = old.clamp_min(1e-9).log()
            kl = float((old * (log_old - log_new.clamp_min(-50.0))).sum(dim=1).mean())
            ratio = log_new.exp() / old.clamp_min(1e-6)
            clipped = float(((ratio - 1).abs() > settings.clip_range)[mask].float().mean())
        if settings.form == CLIP and kl > settings.target_kl:
            break
    return {
        "train/approx_kl": kl,
        "train/clip_fraction": clipped,
        "train/entropy_loss": entropy_loss,
        "train/loss": loss_value,
        "train/n_updates": float(epochs),
    }
