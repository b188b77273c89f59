"""The knee: the highest load at which a policy keeps latency within twice that of an empty engine.

Loads of the suite are given relative to it, so that one file describes equally hard problems on
machines of any speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlkv_agents.evaluate import means, run_policy
from rlkv_agents.load_sweep import EMPTY_FACTOR, SUSTAINED_FACTOR
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import Scenario
from rlkv_envs.workloads import Split

#: Widest bracket, as factors of the rate where the search begins.
MAX_DOUBLINGS = 8


@dataclass(frozen=True, slots=True)
class Knee:
    """Where the latency passes the limit, and every load that was tried."""

    rate_per_s: float
    empty_s: float  #: mean normalized latency on an empty engine, s/token
    limit_s: float
    tried: Sequence[tuple[float, float]]  #: (rate, latency), in the order of the search


def find_knee(
    scenario: Scenario,
    policy: AgentPolicy,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3),
    tolerance: float = 0.02,
    split: Split = "validation",
    on_run: Callable[[], None] = lambda: None,
) -> Knee:
    """Bisect the arrival rate until the bracket is narrower than ``tolerance`` of itself.

    The same sessions at every load, so that latency rises almost steadily with the rate; they are
    those of the validation split, unless another is named.

    Raises:
        InputError: a scenario whose arrivals have no rate, or no knee within ``2 ** MAX_DOUBLINGS``
            of the scenario's rate.
    """
    if scenario.arrivals is not None:
        raise InputError(f"scenario {scenario.name!r} fixes its arrivals: there is no load to vary")
    tried: list[tuple[float, float]] = []

    def latency_s(rate_per_s: float) -> float:
        at_rate = scenario.at_rate(rate_per_s)
        runs = []
        for seed in seeds:
            runs.append(run_policy(at_rate, policy, at_rate.trace(seed, split)))
            on_run()
        value = float(means(runs).mean())
        tried.append((rate_per_s, value))
        return value

    empty_s = latency_s(scenario.rate_per_s * EMPTY_FACTOR)
    limit_s = SUSTAINED_FACTOR * empty_s
    low = high = scenario.rate_per_s
    if latency_s(low) <= limit_s:
        for _ in range(MAX_DOUBLINGS):
            low, high = high, 2.0 * high
            if latency_s(high) > limit_s:
                break
        else:
            raise InputError(f"scenario {scenario.name!r}: no knee up to {high:g} sessions/s")
    else:
        for _ in range(MAX_DOUBLINGS):
            low, high = low / 2.0, low
            if latency_s(low) <= limit_s:
                break
        else:
            raise InputError(f"scenario {scenario.name!r}: no knee down to {low:g} sessions/s")
    while high - low > tolerance * low:
        middle = (low * high) ** 0.5
        if latency_s(middle) > limit_s:
            high = middle
        else:
            low = middle
    return Knee(low, empty_s, limit_s, tried)
