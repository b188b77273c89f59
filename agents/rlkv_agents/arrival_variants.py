"""The scenarios of the suite with arrivals other than their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from rlkv_agents.load_sweep import EMPTY_FACTOR
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import Scenario
from rlkv_envs.traces import read_trace
from rlkv_envs.workloads.arrivals import ClosedLoop, GammaRenewal, Stamps

DEFAULT, BURSTS, CLOSED, STAMPS = ARRIVALS = ("default", "bursts", "closed", "stamps")
#: Coefficient of variation of the gaps between bursty arrivals.
BURST_CV = 4.0


def with_arrivals(scenario: Scenario, kind: str, trace: Path | None = None) -> Scenario:
    """The scenario under one of ``ARRIVALS``, at the same load.

    ``default``: its own. ``bursts``: Gamma gaps of the same mean whose coefficient of variation is
    4. ``closed``: ``concurrent_sessions`` of them at a time. ``stamps``: the arrival times of a
    trace, stretched to the scenario's rate.

    Raises:
        InputError: unknown kind, stamps without a trace or the reverse, or a trace without stamps.
    """
    check_arrivals(kind, trace)
    if trace is not None:
        try:
            stamps = Stamps(read_trace(trace).arrival_s, scenario.rate_per_s)
        except InputError as error:
            raise InputError(error.reason, path=error.path or trace) from error
        return replace(scenario, arrivals=stamps)
    if kind == BURSTS:
        return replace(scenario, arrivals=GammaRenewal(scenario.rate_per_s, BURST_CV))
    if kind == CLOSED:
        return replace(scenario, arrivals=ClosedLoop(concurrent_sessions(scenario)))
    return scenario


def check_arrivals(kind: str, trace: Path | None) -> None:
    """Raises ``InputError`` for an unknown kind, stamps without a trace, or the reverse."""
    if kind not in ARRIVALS:
        raise InputError(f"unknown arrivals {kind!r}: one of {', '.join(ARRIVALS)}")
    if (kind == STAMPS) != (trace is not None):
        raise InputError(f"--arrivals {STAMPS} and --trace need each other")


def concurrent_sessions(scenario: Scenario) -> int:
    """Sessions that would be in the system at the scenario's rate if nobody had to wait.

    Little's law: rate times the mean time from arrival to end, pauses included, which is measured
    on an empty engine. So it does not depend on the policy; where sessions do wait, an open loop
    has more of them.
    """
    empty = scenario.at_rate(scenario.rate_per_s * EMPTY_FACTOR)
    rule = AgentPolicy("house", make_rule("house"))
    engine = Engine(
        empty.profile,
        empty.trace(0, "validation"),
        rule.rule.params(empty.table),
        table=empty.table,
        keep_outcome=True,
    )
    engine.run(rule.compiled())
    outcome = engine.state.outcome
    stay_s = float(np.mean(outcome[S.FINISH_S] - outcome[S.ARRIVED_S]))
    return max(1, round(scenario.rate_per_s * stay_s))
