from __future__ import annotations

import numpy as np
import pytest

from rlkv_agents.evaluate import run_policy
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_agents.timeline import memory_timeline
from rlkv_engine.engine import Engine
from rlkv_envs.scenario import closed_loop, load_scenario

SCENARIO = load_scenario("crossover-slow").with_sessions(80)
POLICY = AgentPolicy("house", make_rule("house", {"write_through": 1.0}))


def test_shares_of_the_device_pool_add_up() -> None:
    drawn = memory_timeline(SCENARIO, POLICY, seed=0, num_samples=50)
    times = drawn.pop("t_s")
    host = drawn.pop("host")
    assert 10 < len(times) <= 50 and times == sorted(set(times))
    np.testing.assert_allclose(np.sum(list(drawn.values()), axis=0), 1.0)
    assert all(min(series) >= 0.0 for series in (*drawn.values(), host))
    assert max(drawn["paused"]) > 0.0 and max(host) > 0.0


def test_the_window_is_kept_to() -> None:
    drawn = memory_timeline(SCENARIO, POLICY, 0, num_samples=20, start_s=5.0, length_s=4.0)
    assert drawn["t_s"][0] == pytest.approx(5.0, abs=0.5)
    assert drawn["t_s"][-1] == pytest.approx(9.0, abs=0.5)
    assert len(set(map(len, drawn.values()))) == 1


def test_a_closed_loop_has_a_timeline_too() -> None:
    drawn = memory_timeline(closed_loop(SCENARIO, 20), POLICY, 0, num_samples=20)
    assert len(drawn["t_s"]) > 5 and drawn["t_s"][0] > 0.0


def test_stopping_to_look_changes_nothing() -> None:
    trace = SCENARIO.trace(0, "test")
    table = SCENARIO.table
    engine = Engine(SCENARIO.profile, trace, POLICY.rule.params(table), table=table)
    for until_s in np.arange(1.0, 20.0, 0.25):
        engine.run(POLICY.compiled(), until_s=float(until_s))
    engine.run(POLICY.compiled())
    whole = run_policy(SCENARIO, POLICY, trace)
    assert engine.now_s == whole.duration_s
