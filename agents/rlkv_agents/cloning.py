"""Many teachers into one policy: what is right on each machine, told by the machine's features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rlkv_agents.actor import Actor
from rlkv_agents.demonstrations import Demonstrations, Teacher, demonstrate, join
from rlkv_agents.ensemble import joined
from rlkv_agents.learner import SEED_STRIDE
from rlkv_agents.policy import NUM_VERBS, AgentPolicy, range_of
from rlkv_agents.shipped import UNIVERSAL
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.tree import NUM_POINTS


@dataclass(frozen=True, slots=True)
class CloneSettings:
    """How teachers are distilled."""

    #: Networks that learn the same with other weights of the machines, each so wide.
    num_members: int = 3
    hidden: int = 32
    prior: float = 1.0
    #: The first pass watches the teachers on their own paths, the others the student on its own.
    num_passes: int = 3
    traces_per_pass: int = 3
    num_per_trace: int = 2000
    label_smoothing: float = 0.1
    learning_rate: float = 2e-3
    batch_size: int = 1024
    num_epochs: int = 30

    @property
    def num_steps(self) -> int:
        """How often ``clone`` calls ``on_step`` for its fits; once more for each teacher a pass."""
        return self.num_passes * self.num_members * self.num_epochs


def clone(
    teachers: Sequence[Teacher],
    start: AgentPolicy,
    settings: CloneSettings,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> AgentPolicy:
    """An ensemble that answers at REVISITs as each teacher does on its own machine.

    The rule of ``start`` (with its advice) stays under it, orders the victims and answers CALLs.
    Every machine weighs the same, and within a machine every decision point that occurs; each
    member draws its own weights of the machines on top (Bayesian bootstrap, Rubin 1981), so that
    they agree only where much speaks for it.
    """
    torch.manual_seed(seed)
    nets = [
        Actor(NUM_FEATURES, settings.hidden, settings.prior) for _ in range(settings.num_members)
    ]
    rng = np.random.default_rng([seed, 1])
    importance = rng.exponential(size=(settings.num_members, len(teachers)))
    student = replace(start, name=UNIVERSAL)
    shown: list[Demonstrations] = []
    weights: list[np.ndarray] = []  # of each: [num_members, num decisions]
    for number in range(settings.num_passes):
        for index, teacher in enumerate(teachers):
            first = SEED_STRIDE * (seed + 1) + 500_000 + 1000 * index + 10 * number
            traces = [
                teacher.scenario.trace(first + i, "train") for i in range(settings.traces_per_pass)
            ]
            demos = demonstrate(
                teacher,
                student,
                traces,
                obey_teacher=number == 0,
                num_per_trace=settings.num_per_trace,
                rng=rng,
                ask_call=False,
            )
            shown.append(demos)
            weights.append(importance[:, index, None] * _weights(demos))
            on_step()
        everything = join(shown)
        for member, net in enumerate(nets):
            generator = torch.Generator().manual_seed(1000 * seed + 10 * number + member)
            weight = np.concatenate([each[member] for each in weights])
            _fit(net, everything, weight, settings, generator, on_step)
        met = everything.observation.astype(np.float64)
        student = replace(
            student,
            weights=joined([net.weights() for net in nets]),
            prior=settings.prior,
            trained_range=range_of(met.min(axis=0), met.max(axis=0)),
        )
    return student


def _weights(demos: Demonstrations) -> np.ndarray:
    # One for the machine as a whole, divided evenly among the points that occur on it.
    counts = np.bincount(demos.point, minlength=NUM_POINTS)
    share = 1.0 / np.maximum(counts, 1) / max(int((counts > 0).sum()), 1)
    return share[demos.point]


def _fit(
    net: Actor,
    demos: Demonstrations,
    weight: np.ndarray,
    settings: CloneSettings,
    generator: torch.Generator,
    on_step: Callable[[], None],
) -> None:
    observation = torch.as_tensor(demos.observation)
    mask = torch.as_tensor(demos.mask)
    target = torch.nn.functional.one_hot(torch.as_tensor(demos.verb), NUM_VERBS).float()
    legal = mask.float() / mask.sum(dim=1, keepdim=True)
    target = (1 - settings.label_smoothing) * target + settings.label_smoothing * legal
    importance = torch.as_tensor(weight / weight.mean(), dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate)
    steps = settings.num_epochs * (1 + (len(observation) - 1) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(settings.num_epochs):
        order = torch.randperm(len(observation), generator=generator)
        for batch in torch.split(order, settings.batch_size):
            log_probability = net.log_probability(observation[batch], mask[batch]).clamp_min(-50.0)
            loss = -(importance[batch] * (target[batch] * log_probability).sum(dim=1)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        on_step()
