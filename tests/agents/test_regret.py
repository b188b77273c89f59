from __future__ import annotations

from typing import Any

import pytest

from rlkv_agents.regret import regret


def record(scenario: str, learned: str | None = "net", **mean_s: float) -> dict[str, Any]:
    return {
        "scenario": scenario,
        "learned": learned,
        "policies": {
            name: {"normalized_latency_s": {"mean": mean}, "sees_future": name == "oracle"}
            for name, mean in mean_s.items()
        },
    }


def test_every_policy_is_held_against_the_best_rule_of_each_scenario() -> None:
    table = regret(
        [
            record("a", lru=2.0, lazy=1.0, net=0.5, oracle=0.25),
            record("b", lru=1.0, lazy=4.0, net=2.0, oracle=0.25),
        ]
    )
    assert [row["best_rule"] for row in table["scenarios"]] == ["lazy", "lru"]
    assert table["scenarios"][1]["ratio"]["net"] == 2.0
    policies = table["policies"]
    assert policies["lru"]["max"] == 2.0 and policies["lru"]["worst_scenario"] == "a"
    assert policies["lru"]["geometric_mean"] == pytest.approx(2.0**0.5)
    assert policies["net"]["geometric_mean"] == pytest.approx(1.0)
    assert policies["oracle"]["sees_future"] and not policies["net"]["sees_future"]
    assert list(policies) == ["oracle", "net", "lru", "lazy"]


def test_policies_need_not_be_everywhere() -> None:
    table = regret([record("a", lru=1.0), record("b", lru=2.0, net=1.0), record("c", net=1.0)])
    assert len(table["scenarios"]) == 2  # "c" has no rule to compare with
    assert table["policies"]["net"] == {
        "max": 0.5, "worst_scenario": "b", "geometric_mean": 0.5, "num_scenarios": 1,
        "sees_future": False,
    }  # fmt: skip
    assert regret([]) == {"scenarios": [], "policies": {}}
