"""What a snapshot of the verbs is validated as: with the order of victims that suits it better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.base_rule import Rule
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.tune import caution_score, validation_latency_s
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario


def validated(
    scenario: Scenario,
    snapshot: AgentPolicy,
    ordered: Rule,
    traces: Sequence[Trace],
    base_s: NDArray[np.float64],
) -> tuple[AgentPolicy, NDArray[np.float64]]:
    """The snapshot as it is best, and its latency on each trace, s/token.

    One that learnt in the plain order, as the clipped surrogate's do, may be better in the order
    that was learnt for the tuned rule. That is only tried where it has passed that rule: what
    thrashes takes long to run.

    Args:
        scenario: where it learns.
        snapshot: of the verbs.
        ordered: the tuned rule with its learned order.
        traces: for validation.
        base_s: latency of the tuned rule on each of them.
    """
    latency_s = validation_latency_s(scenario, snapshot, traces)
    assert isinstance(snapshot.rule, House) and isinstance(ordered, House)
    nothing_to_try = snapshot.rule.has_order or not ordered.has_order
    if nothing_to_try or caution_score(latency_s, base_s) >= 0.0:
        return snapshot, latency_s
    return in_best_order(scenario, snapshot, latency_s, [ordered.order], traces, base_s)


def in_best_order(
    scenario: Scenario,
    policy: AgentPolicy,
    latency_s: NDArray[np.float64],
    orders: Sequence[NDArray[np.float64]],
    traces: Sequence[Trace],
    base_s: NDArray[np.float64],
    on_step: Callable[[], None] = lambda: None,
) -> tuple[AgentPolicy, NDArray[np.float64]]:
    """A policy in its own order of victims or one of ``orders``, and its latency on each trace.

    ``latency_s`` is the policy's as it is; ``on_step`` is called after each order that was tried.
    """
    rule = policy.rule
    assert isinstance(rule, House)
    best, best_s, best_score = policy, latency_s, caution_score(latency_s, base_s)
    for order in orders:
        other = replace(policy, rule=rule.with_order(order))
        other_s = validation_latency_s(scenario, other, traces)
        score = caution_score(other_s, base_s)
        if score < best_score:
            best, best_s, best_score = other, other_s, score
        on_step()
    return best, best_s
