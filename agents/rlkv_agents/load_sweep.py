"""Latency against load, and the load that a policy sustains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlkv_agents.evaluate import means, run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import Split

#: Loads of a sweep, as shares of the scenario's own.
FACTORS = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3)
#: A load is sustained while the mean normalized latency is within this factor of an empty engine's.
SUSTAINED_FACTOR = 2.0
#: The empty engine: the same sessions at this share of the scenario's load.
EMPTY_FACTOR = 1.0 / 50.0


def load_sweep(
    scenario: Scenario,
    policies: Sequence[AgentPolicy],
    factors: Sequence[float] = FACTORS,
    seeds: Sequence[int] = (0, 1),
    on_run: Callable[[], None] = lambda: None,
    split: Split = "test",
) -> dict[str, Any]:
    """Mean normalized latency of every policy at several loads, on the same sessions throughout.

    The limit up to which a load counts as sustained is one for all policies: ``SUSTAINED_FACTOR``
    times the lowest latency that any of them has on an empty engine, so that a policy which is
    slow without load gains nothing from it.

    Args:
        scenario: its machine and sessions; the arrivals are stretched to each load.
        policies: what answers the decisions.
        factors: loads as shares of ``scenario.rate_per_s``, ascending.
        seeds: of the traces that the means are over.
        on_run: called after each of the ``num_load_sweep_runs`` runs.
        split: which traces.

    Returns:
        ``rates_per_s``; ``policies``: name -> seconds per token at each rate; ``empty_s``: name ->
        the same on an empty engine; ``limit_s``; ``sustainable_rate_per_s``: name -> sessions per
        second, None where it is not in the sweep; ``sustainable_side``: name -> ``within`` it,
        ``below`` its lowest or ``above`` its highest rate.

    Raises:
        InputError: arrivals that have no rate to stretch, or factors that do not ascend from 0.
    """
    if scenario.arrivals is not None:
        raise InputError(f"scenario {scenario.name!r} fixes its arrivals: there is no load to vary")
    if not factors or factors[0] <= 0 or any(np.diff(factors) <= 0):
        raise InputError(f"factors must ascend from above 0, got {list(factors)}")

    def latency_s(factor: float, policy: AgentPolicy) -> float:
        at_load = loaded[factor]
        runs = []
        for seed in seeds:
            runs.append(run_policy(at_load, policy, at_load.trace(seed, split)))
            on_run()
        return float(means(runs).mean())

    loaded = {f: scenario.at_rate(scenario.rate_per_s * f) for f in (EMPTY_FACTOR, *factors)}
    rates = [loaded[factor].rate_per_s for factor in factors]
    empty_s = {policy.name: latency_s(EMPTY_FACTOR, policy) for policy in policies}
    limit_s = SUSTAINED_FACTOR * min(empty_s.values(), default=math.inf)
    curves = {policy.name: [latency_s(f, policy) for f in factors] for policy in policies}
    crossings = {name: sustainable_rate(rates, curve, limit_s) for name, curve in curves.items()}
    return {
        "rates_per_s": rates,
        "policies": curves,
        "empty_s": empty_s,
        "limit_s": limit_s,
        "sustainable_rate_per_s": {name: rate for name, (rate, _) in crossings.items()},
        "sustainable_side": {name: side for name, (_, side) in crossings.items()},
    }


def num_load_sweep_runs(
    policies: Sequence[AgentPolicy],
    factors: Sequence[float] = FACTORS,
    seeds: Sequence[int] = (0, 1),
) -> int:
    """How often ``load_sweep`` calls ``on_run``."""
    return len(policies) * len(seeds) * (len(factors) + 1)


def sustainable_rate(
    rates_per_s: Sequence[float], latency_s: Sequence[float], limit_s: float
) -> tuple[float | None, str]:
    """The rate where the latency first passes the limit, linear between rates, and its side."""
    for i, latency in enumerate(latency_s):
        if latency <= limit_s:
            continue
        if i == 0:
            return None, "below"
        part = (limit_s - latency_s[i - 1]) / (latency - latency_s[i - 1])
        return rates_per_s[i - 1] + part * (rates_per_s[i] - rates_per_s[i - 1]), "within"
    return None, "above"
