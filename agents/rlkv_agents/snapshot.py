"""What a snapshot of the verbs is validated as: with the order of victims that suits it better."""

from __future__ import annotations

from collections.abc import Sequence
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
    score = caution_score(latency_s, base_s)
    rule = snapshot.rule
    assert isinstance(rule, House) and isinstance(ordered, House)
    if score >= 0.0 or rule.has_order or not ordered.has_order:
        return snapshot, latency_s
    other = replace(snapshot, rule=rule.with_order(ordered.order))
    other_s = validation_latency_s(scenario, other, traces)
    return (other, other_s) if caution_score(other_s, base_s) < score else (snapshot, latency_s)
