from __future__ import annotations

import pytest

from rlkv_agents.load_sweep import load_sweep, num_load_sweep_runs, sustainable_rate
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import closed_loop, load_scenario

POLICIES = [AgentPolicy(name, make_rule(name)) for name in ("lru", "lazy-swap")]
FACTORS = (0.2, 1.0, 4.0)


def test_latency_grows_with_load_and_crosses_the_limit() -> None:
    scenario = load_scenario("crossover-slow").with_sessions(60)
    runs = []
    sweep = load_sweep(scenario, POLICIES, FACTORS, (0,), lambda: runs.append(1))
    assert len(runs) == num_load_sweep_runs(POLICIES, FACTORS, (0,))
    assert sweep["rates_per_s"] == [scenario.rate_per_s * factor for factor in FACTORS]
    assert sweep["limit_s"] == 2.0 * min(sweep["empty_s"].values())
    for name, curve in sweep["policies"].items():
        assert curve == sorted(curve)
        rate, side = sweep["sustainable_rate_per_s"][name], sweep["sustainable_side"][name]
        assert (rate is None) == (side != "within")
        if rate is not None:
            assert sweep["rates_per_s"][0] <= rate <= sweep["rates_per_s"][-1]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([1.0, 2.0, 3.0], (25.0, "within")),
        ([1.0, 3.0, 2.0], (17.5, "within")),  # it stays within only up to the first crossing
        ([1.0, 2.0, 2.5], (None, "above")),
        ([2.6, 3.0, 4.0], (None, "below")),
    ],
)
def test_sustainable_rate_is_the_first_crossing(
    curve: list[float], expected: tuple[float | None, str]
) -> None:
    assert sustainable_rate([10.0, 20.0, 30.0], curve, 2.5) == expected


def test_what_cannot_be_swept_is_refused() -> None:
    scenario = load_scenario("crossover-slow").with_sessions(10)
    with pytest.raises(InputError, match="no load to vary"):
        load_sweep(closed_loop(scenario, 4), POLICIES)
    with pytest.raises(InputError, match="must ascend"):
        load_sweep(scenario, POLICIES, (1.0, 0.5))
