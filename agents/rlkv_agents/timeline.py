"""What fills the memory over time under one policy."""

from __future__ import annotations

import numpy as np

from rlkv_agents.policy import AgentPolicy
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import Split

#: Shares of the device pool, which sum to 1, then of the host pool.
SERIES = ("running", "paused", "reclaimable", "pending", "free", "host")


def memory_timeline(
    scenario: Scenario,
    policy: AgentPolicy,
    seed: int,
    num_samples: int = 300,
    start_s: float | None = None,
    length_s: float | None = None,
    split: Split = "test",
) -> dict[str, list[float]]:
    """Samples of both pools of one run.

    Args:
        scenario: machine, sessions and load.
        policy: what answers the decisions.
        seed: of the trace.
        num_samples: samples asked for; a long iteration may make them fewer.
        start_s: time of the first sample; None: one third into the arrivals.
        length_s: time between first and last sample; None: a third of the arrivals.
        split: which trace.

    Returns:
        ``t_s`` and a list for each name in ``SERIES``: ``running`` (sessions that compute or wait
        to), ``paused`` (held for paused sessions), ``reclaimable`` (given up, not overwritten yet),
        ``pending`` (being copied out) and ``free`` as shares of the device pool; ``host``, the
        share of the host pool in use, 0 where there is none.
    """
    trace = scenario.trace(seed, split)
    third_s = _span_s(scenario, policy, trace) / 3.0
    first_s = third_s if start_s is None else start_s
    last_s = first_s + (third_s if length_s is None else length_s)
    engine = _engine(scenario, policy, trace)
    samples: dict[str, list[float]] = {name: [] for name in ("t_s", *SERIES)}
    compiled = policy.compiled()
    for at_s in np.linspace(first_s, last_s, num_samples):
        if samples["t_s"] and engine.now_s >= at_s:
            continue
        ended = engine.run(compiled, until_s=float(at_s))
        for name, value in zip(samples, (engine.now_s, *_shares(engine)), strict=True):
            samples[name].append(value)
        if ended:
            break
    return samples


def _engine(scenario: Scenario, policy: AgentPolicy, trace: Trace) -> Engine:
    policy, table = policy.on(scenario), policy.table(scenario)
    return Engine(
        scenario.profile,
        trace,
        policy.rule.params(table),
        table=table,
        lease_s=policy.rule.leases(scenario.profile, table),
    )


def _span_s(scenario: Scenario, policy: AgentPolicy, trace: Trace) -> float:
    # The arrivals; the whole run where sessions arrive as others end.
    if trace.num_concurrent == 0:
        return float(trace.arrival_s[-1])
    engine = _engine(scenario, policy, trace)
    engine.run(policy.compiled())
    return engine.now_s


def _shares(engine: Engine) -> tuple[float, ...]:
    n = engine.state.n
    pool, host = int(n[S.NUM_DEVICE]), int(n[S.NUM_HOST])
    counts = [int(n[field]) for field in (S.PAUSED_FIRM, S.RECLAIMABLE, S.PENDING, S.FREE)]
    shares = [count / pool for count in counts]
    host_used = 1.0 - int(n[S.HOST_FREE]) / host if host else 0.0
    return (pool - sum(counts)) / pool, *shares, host_used
