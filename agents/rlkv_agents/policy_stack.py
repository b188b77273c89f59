"""Engines side by side under one policy: what forks, demonstrations and plans are run on."""

from __future__ import annotations

from collections.abc import Sequence

from rlkv_agents.policy import AgentPolicy
from rlkv_engine.config import EngineConfig
from rlkv_engine.layout import build_state
from rlkv_engine.state import State
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

#: Of an engine at first; there get to be more as there must.
_NUM_SLOTS = 128


def policy_stack(
    scenario: Scenario,
    policy: AgentPolicy,
    traces: Sequence[Trace],
    *,
    num_engines: int,
    ask_call: bool = True,
    keep_latencies: bool = False,
) -> State:
    """Engines at time 0 of the first trace, with the policy's rule and what it knows of pauses.

    Without ``keep_latencies`` nothing is noted of latencies but the cost.

    Raises:
        InputError: a session that no engine of this machine can hold.
    """
    table = policy.table(scenario)
    return build_state(
        scenario.profile,
        traces,
        table,
        policy.rule.params(table),
        EngineConfig(ask_call=ask_call),
        num_engines=num_engines,
        num_slots=_NUM_SLOTS,
        lease_s=policy.rule.leases(scenario.profile, table),
        keep_latencies=keep_latencies,
    )
