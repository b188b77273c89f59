"""Each mechanism of the house rule earns its place somewhere: paired traces of one scenario."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkv_agents.evaluate import means, run_policy
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.config import EngineConfig
from rlkv_envs.scenario import load_scenario

SEEDS = range(4)


def latency_s(name: str, config: EngineConfig, **constants: float) -> NDArray[np.float64]:
    """Mean normalized latency of the house rule on each trace, shape ``[num_seeds]``."""
    scenario = load_scenario(name)
    policy = AgentPolicy("house", House(**constants))
    traces = [scenario.trace(seed, "validation") for seed in SEEDS]
    return means([run_policy(scenario, policy, trace, config) for trace in traces])


@pytest.mark.parametrize(
    ("scenario", "constants", "switched_off", "least"),
    [
        # Some slack is better than none; much of it takes from those that a slow link cannot
        # bring back.
        ("unseen-infercept-half-host", {"swap_ratio": 1e9}, {"slack_ratio": 0.0}, 1.05),
        (
            "crossover-tiny-host",
            {"slack_ratio": 0.0, "guard_pauses": 2.0},
            {"slack_ratio": 0.012},
            1.04,
        ),
        # A host tier full of the dead.
        ("coding-overload", {}, {"host_victims": False}, 1.15),
        # On a slow link a returning session must not wait for copies; with a fast one what was
        # discarded has to be computed again.
        ("crossover-slow", {}, {"swap_ratio": 1e9}, 1.05),
        ("coding", {}, {"swap_ratio": 0.0}, 1.08),
        # New sessions drive out those that are back at once.
        ("crossover-tiny-host", {"guard_pauses": 2.0}, {"guard_pauses": 0.0}, 1.08),
        # What the idle link has copied is free at once; a small host has better use for its room.
        (
            "crossover",
            {"swap_ratio": 0.5, "guard_pauses": 2.0, "write_through": 1.0},
            {"write_through": 0.0},
            2.0,
        ),
        ("unseen-coding-small-host", {}, {"write_through": 1.0}, 1.05),
        # What the host holds already is free at once, what was copied for nothing is not; whose
        # session is young has the most to lose.
        (
            "coding",
            {"order_dirty": -1.5, "order_context": -0.8, "order_turns": 0.8},
            {"order_dirty": 0.0, "order_context": 0.0, "order_turns": 0.0},
            1.004,
        ),
    ],
)
def test_without_it_every_trace_is_slower(
    scenario: str, constants: dict[str, float], switched_off: dict[str, Any], least: float
) -> None:
    base = {"guard_pauses": 0.25, **constants}
    on_s = latency_s(scenario, EngineConfig(), **base)
    if "host_victims" in switched_off:
        off_s = latency_s(scenario, EngineConfig(**switched_off), **base)
    else:
        off_s = latency_s(scenario, EngineConfig(), **{**base, **switched_off})
    assert (off_s / on_s > least).all(), off_s / on_s
