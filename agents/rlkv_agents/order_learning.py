"""Whose blocks go first, learnt: evolution strategies on the weights of the house rule's order.

Verbs are learnt decision by decision from forked futures; an order is a few numbers that act on all
offers at once, so that whole runs are compared instead, every member on the same traces. What is
kept is the snapshot that validates best, and the order by expected remainder is a candidate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rlkv_agents import side_by_side
from rlkv_agents.evaluate import means, run_policy
from rlkv_agents.evolution import antithetic, slope
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.tune import caution_score, validation_latency_s
from rlkv_engine.trace import Trace
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from rlkv_envs.metrics import RunResult
from rlkv_envs.scenario import Scenario

#: Seeds of the training traces start here, far from those of the verbs.
FIRST_SEED = 500_000_000


@dataclass(frozen=True, slots=True)
class OrderSettings:
    """How an order is learnt."""

    generations: int = 24
    num_pairs: int = 8
    traces_per_generation: int = 4
    noise_std: float = 0.3  #: terms are logarithms and shares
    learning_rate: float = 0.15
    validate_every: int = 4


@dataclass(frozen=True, slots=True)
class OrderPoint:
    """A validation while an order is learnt."""

    num_decisions: int  #: of all members so far
    cpu_s: float  #: with validations, the start's aside
    latency_s: NDArray[np.float64]  #: of each validation trace, s/token
    score: float


@dataclass(frozen=True, slots=True)
class LearntOrder:
    """The rule with the order that was kept."""

    rule: House
    score: float  #: on validation traces
    curve: Sequence[OrderPoint]


def learn_order(
    scenario: Scenario,
    start: AgentPolicy,
    validation: Sequence[Trace],
    seed: int = 0,
    settings: OrderSettings | None = None,
    on_generation: Callable[[], None] = lambda: None,
    start_s: NDArray[np.float64] | None = None,
    base_s: NDArray[np.float64] | None = None,
) -> LearntOrder:
    """The order of victims that goes with a policy on a scenario.

    Args:
        scenario: trained on, with fresh traces of its training split in every generation.
        start: on the house rule, whose order is where it starts; it answers as it does.
        validation: traces that choose the snapshot.
        seed: of noise and traces; the same seed gives the same order.
        settings: of the search.
        on_generation: called after each.
        start_s: latency of ``start`` on each validation trace, s/token; None: it is measured.
        base_s: latency of each validation trace that scores are against; None: that of ``start``.
    """
    import torch

    settings = settings or OrderSettings()
    rule = start.rule
    assert isinstance(rule, House)
    if start_s is None:
        start_s = validation_latency_s(scenario, start, validation)
    best, best_score = rule, 0.0
    if base_s is None:
        base_s = start_s
    else:
        best_score = caution_score(start_s, base_s)
    centre = torch.nn.Parameter(torch.as_tensor(rule.order, dtype=torch.float32))
    optimizer = torch.optim.Adam([centre], lr=settings.learning_rate, betas=(0.8, 0.95))
    curve: list[OrderPoint] = []
    num_decisions = 0
    since = time.process_time()
    path: list[NDArray[np.float32]] = []
    for number in range(settings.generations):
        rng = np.random.default_rng([seed, number])
        first = FIRST_SEED + (seed * settings.generations + number) * settings.traces_per_generation
        traces = [scenario.trace(first + i, "train") for i in range(settings.traces_per_generation)]
        noise = antithetic(rng, settings.num_pairs, (NUM_ORDER_TERMS,))
        now = centre.detach().numpy().copy()
        members = [
            replace(start, rule=rule.with_order(now + settings.noise_std * each)) for each in noise
        ]
        runs = list(side_by_side.each(partial(_run_member, scenario, traces), members))
        costs = np.array([np.log(means(each)).mean() for each in runs])
        num_decisions += sum(run.num_decisions for each in runs for run in each)
        centre.grad = torch.as_tensor(slope(noise, costs, settings.noise_std))
        optimizer.step()
        path.append(centre.detach().numpy().copy())
        on_generation()
        done = number + 1
        if done % settings.validate_every and done < settings.generations:
            continue
        # Where the last steps went on average is steadier than where the last one did.
        found = rule.with_order(np.mean(path[len(path) // 2 :], axis=0))
        latency = validation_latency_s(scenario, replace(start, rule=found), validation)
        score = caution_score(latency, base_s)
        curve.append(OrderPoint(num_decisions, time.process_time() - since, latency, score))
        if score < best_score:
            best, best_score = found, score
    return LearntOrder(best, best_score, curve)


def _run_member(
    scenario: Scenario, traces: Sequence[Trace], member: AgentPolicy
) -> list[RunResult]:
    return [run_policy(scenario, member, trace) for trace in traces]
