"""Departures by confidence: only those that leave the rule, each against the rule's own verb."""

from __future__ import annotations

import numpy as np
import pytest

from rlkv_agents import reliability as R
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.reliability import Departures, departures, reliability
from tests.agents.small_scenario import random_weights, small_scenario

SCENARIO = small_scenario()


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(R, "NUM_TRACES", 2)
    monkeypatch.setattr(R, "FORKS_PER_TRACE", 60)


def test_a_network_that_says_nothing_never_departs() -> None:
    silent = [np.zeros_like(array) for array in random_weights()]
    found = departures(SCENARIO, AgentPolicy("silent", House(), silent, 1.0), 0)
    assert found.num_decisions > 20 and len(found.confidence) == 0
    assert reliability([found]) == []


def test_departures_are_measured_whether_the_policy_would_dare_or_not() -> None:
    policy = AgentPolicy("random", House(), random_weights(), 0.5)
    unknown = (np.full(44, 2.0), np.full(44, 3.0))
    careful = AgentPolicy(
        "careful", House(), random_weights(), 0.5, trained_range=unknown, min_confidence=1.0
    )
    bold, held_back = (departures(SCENARIO, each, 0) for each in (policy, careful))
    assert len(bold.confidence) > 5 and bold.advantage.std() > 0.0
    assert len(held_back.confidence) > 5


def test_a_plain_rule_has_none() -> None:
    assert departures(SCENARIO, AgentPolicy("house", House()), 0).num_decisions == 0


def test_rows_are_of_bins_that_were_met() -> None:
    found = Departures(np.array([0.55, 0.58, 0.95]), np.array([0.1, -0.3, 0.2]), 10)
    rows = reliability([found, Departures(np.array([0.57]), np.array([0.0]), 5)])
    assert [(row["low"], row["num"]) for row in rows] == [(0.5, 3), (0.9, 1)]
    assert rows[0]["advantage"] == pytest.approx(-0.2 / 3)
    assert rows[0]["better"] == rows[0]["worse"] == pytest.approx(1 / 3)
    assert rows[0]["ci95"][0] <= rows[0]["advantage"] <= rows[0]["ci95"][1]
