"""Snapshots of the verbs in the plain order of victims and in the learned one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkv_agents import snapshot
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.snapshot import validated
from rlkv_engine.trace import Trace
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from rlkv_envs.scenario import Scenario
from tests.agents.small_scenario import small_scenario

SCENARIO = small_scenario()
BASE_S = np.full(4, 2.0)
PLAIN = House(guard_pauses=2.0)
ORDERED = PLAIN.with_order(np.arange(NUM_ORDER_TERMS) / 10.0)


@pytest.mark.parametrize(
    ("learnt_on", "ordered", "plain_s", "ordered_s", "kept", "num_runs"),
    [
        (PLAIN.discarding(), ORDERED, 1.5, 1.4, True, 2),
        (PLAIN.discarding(), ORDERED, 1.5, 1.6, False, 2),
        # Behind the tuned rule: not worth another run.
        (PLAIN.discarding(), ORDERED, 2.1, 1.4, False, 1),
        # Nothing else to try.
        (PLAIN.discarding(), PLAIN, 1.5, 1.4, False, 1),
        (ORDERED, ORDERED, 1.5, 1.4, True, 1),
    ],
)
def test_the_learned_order_is_tried_on_what_passed_the_rule(
    learnt_on: House,
    ordered: House,
    plain_s: float,
    ordered_s: float,
    kept: bool,
    num_runs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = []

    def latency_s(
        scenario: Scenario, policy: AgentPolicy, traces: Sequence[Trace]
    ) -> NDArray[np.float64]:
        assert isinstance(policy.rule, House)
        runs.append(policy)
        return np.full(4, ordered_s if policy.rule.has_order else plain_s)

    monkeypatch.setattr(snapshot, "validation_latency_s", latency_s)
    policy, latency = validated(SCENARIO, AgentPolicy("net", learnt_on), ordered, [], BASE_S)
    assert len(runs) == num_runs
    assert policy.rule == (learnt_on.with_order(ORDERED.order) if kept else learnt_on)
    assert latency.tolist() == [ordered_s if kept else plain_s] * 4
