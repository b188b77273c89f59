"""A simulated engine, stepped to its end by whatever plans its memory."""

from __future__ import annotations

from collections.abc import Callable

from rlkv_agents.policy import AgentPolicy
from rlkv_engine.planner import MemoryPlanner
from rlkv_engine.stepped import SteppedEngine
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario

#: Rows of log that an iteration may have.
LOG_ROWS = 65_536


def stepped_engine(scenario: Scenario, policy: AgentPolicy, trace: Trace) -> SteppedEngine:
    """An engine on a trace of a scenario, with the rule and the pauses that a policy has there."""
    policy, table = policy.on(scenario), policy.table(scenario)
    return SteppedEngine(
        scenario.profile,
        trace,
        policy.rule.params(table),
        table=table,
        lease_s=policy.rule.leases(scenario.profile, table),
        log_rows=LOG_ROWS,
    )


def step_to_end(
    engine: SteppedEngine, planner: MemoryPlanner, on_plan: Callable[[], None] = lambda: None
) -> None:
    """Iterations take what the cost model says; ``on_plan`` is called when one is planned."""
    while True:
        planner.plan_memory(engine)
        on_plan()
        plan = engine.start_iteration()
        if plan is None:
            return
        engine.end_iteration(plan, plan.expected_s)
