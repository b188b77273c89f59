"""What a trained bundle gives to learning on another machine: orders of victims, and itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.bundle import Bundle, load_bundle
from rlkv_agents.demonstrations import Teacher, demonstrate
from rlkv_agents.house_rule import House
from rlkv_agents.learner import SEED_STRIDE
from rlkv_agents.policy import AgentPolicy, range_of
from rlkv_agents.shipped import NO_BUNDLE, bundle_folder
from rlkv_agents.snapshot import in_best_order
from rlkv_agents.tune import validation_latency_s
from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

#: Traces on which the range of a policy on a machine is met, and decisions kept of each.
_NUM_TRACES, _NUM_PER_TRACE = 4, 20_000


@dataclass(frozen=True, slots=True, eq=False)
class WarmStart:
    """What was taken over, and its latency on each validation trace, ``[num_traces]``, s/token."""

    start: AgentPolicy  #: where learning starts: with whichever order validates best
    start_s: NDArray[np.float64]
    candidate: AgentPolicy  #: the bundle's policy
    candidate_s: NDArray[np.float64]


def warm_start_bundle(said: str) -> Bundle | None:
    """The bundle that an option names: its folder, ``universal`` or ``NO_BUNDLE``.

    Raises:
        InputError: it cannot be read.
    """
    return None if said == NO_BUNDLE else load_bundle(bundle_folder(said))


def check_warm_start(bundle: AgentPolicy) -> None:
    """Refuses a policy that nothing can be taken over from.

    Raises:
        InputError: its rule is not the one that learning starts at.
    """
    if not isinstance(bundle.rule, House):
        raise InputError(
            f"a warm start needs a policy on the house rule, not on {bundle.rule.name}"
        )


def take_over(
    scenario: Scenario,
    start: AgentPolicy,
    bundle: AgentPolicy,
    traces: Sequence[Trace],
    base_s: NDArray[np.float64],
    seed: int,
    with_orders: bool,
    counter: Callable[[int], Callable[[], None]],
) -> WarmStart:
    """Try what a bundle holds on a machine.

    Args:
        scenario: the machine.
        start: its tuned rule.
        bundle: trained elsewhere, or on many machines.
        traces: for validation.
        base_s: latency of ``start`` on each of them.
        seed: of the traces on which the bundle's policy is watched.
        with_orders: False leaves the start's order.
        counter: given the number of steps, what to call after each.
    """
    assert isinstance(start.rule, House)
    orders = orders_of(bundle) if with_orders else []
    on_step = counter(1 + len(orders))
    candidate = bound(bundle, scenario, seed)
    candidate_s = validation_latency_s(scenario, candidate, traces)
    on_step()
    best, best_s = in_best_order(scenario, start, base_s, orders, traces, base_s, on_step)
    return WarmStart(best, best_s, candidate, candidate_s)


def orders_of(bundle: AgentPolicy) -> list[NDArray[np.float64]]:
    """The orders of victims that a policy holds but the plain one, each ``[NUM_ORDER_TERMS]``."""
    assert isinstance(bundle.rule, House)
    orders = [bundle.rule.order] if bundle.advice is None else list(bundle.advice.orders)
    return [order for order in orders if order.any()]


def bound(bundle: AgentPolicy, scenario: Scenario, seed: int) -> AgentPolicy:
    """A policy for many machines as one for this machine: with the rule that is right there.

    What it answers to is what it meets there and was trained on: carried to another machine it
    lets the rule answer, as a policy that was trained here does.
    """
    policy = bundle.on(scenario)
    if policy.weights is None and policy.trees is None:
        return policy
    first = SEED_STRIDE * (seed + 1) + 800_000  # apart from those of learning
    met = demonstrate(
        Teacher(scenario, policy),
        policy,
        [scenario.trace(first + i, "train") for i in range(_NUM_TRACES)],
        obey_teacher=True,
        num_per_trace=_NUM_PER_TRACE,
        rng=np.random.default_rng([seed, 3]),
    ).observation
    if not len(met):
        return policy
    low, high = range_of(met.min(axis=0).astype(np.float64), met.max(axis=0).astype(np.float64))
    if policy.trained_range is not None:
        low = np.maximum(low, policy.trained_range[0])
        high = np.minimum(high, policy.trained_range[1])
    return replace(policy, trained_range=(low, high))
