"""Many teachers into one network: what is right on each machine, told by the machine's features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rlkv_agents.actor import Actor
from rlkv_agents.demonstrations import Demonstrations, Teacher, demonstrate, join
from rlkv_agents.learner import SEED_STRIDE
from rlkv_agents.policy import NUM_VERBS, AgentPolicy, range_of
from rlkv_agents.rules import House
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.tree import NUM_POINTS

UNIVERSAL = "universal"


@dataclass(frozen=True, slots=True)
class CloneSettings:
    """How teachers are distilled."""

    hidden: int = 64
    prior: float = 1.0
    #: The first pass watches the teachers on their own paths, the others the student on its own.
    num_passes: int = 3
    traces_per_pass: int = 3
    num_per_trace: int = 2000
    label_smoothing: float = 0.1
    learning_rate: float = 2e-3
    batch_size: int = 1024
    num_epochs: int = 30


def clone(
    teachers: Sequence[Teacher],
    settings: CloneSettings,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> AgentPolicy:
    """One policy that answers as each teacher does on its own machine.

    Every machine weighs the same, and within a machine every decision point that occurs.
    ``on_step`` is called ``num_passes * (len(teachers) + num_epochs)`` times.
    """
    torch.manual_seed(seed)
    net = Actor(NUM_FEATURES, settings.hidden, settings.prior)
    rule = House()
    student = AgentPolicy(UNIVERSAL, rule, net.weights(), settings.prior)
    rng = np.random.default_rng([seed, 1])
    shown: list[Demonstrations] = []
    weights: list[np.ndarray] = []
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
            )
            shown.append(demos)
            weights.append(_weights(demos))
            on_step()
        everything = join(shown)
        generator = torch.Generator().manual_seed(1000 * seed + number)
        _fit(net, everything, np.concatenate(weights), settings, generator, on_step)
        met = everything.observation
        student = AgentPolicy(
            UNIVERSAL,
            rule,
            net.weights(),
            settings.prior,
            range_of(met.min(axis=0).astype(np.float64), met.max(axis=0).astype(np.float64)),
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
