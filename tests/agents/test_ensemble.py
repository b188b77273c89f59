"""An ensemble in one network: mean logits; the rule answers where it is not sure enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rlkv_agents.ensemble import joined
from rlkv_agents.evaluate import run_policy
from rlkv_agents.house_rule import House
from rlkv_agents.inference import BatchInference, greedy_verbs
from rlkv_agents.policy import AgentPolicy
from rlkv_engine.observe import NUM_FEATURES
from tests.agents.small_scenario import random_weights, small_scenario

MEMBERS = [random_weights(seed, hidden) for seed, hidden in ((0, 4), (1, 8), (2, 6))]
ROWS = np.random.default_rng(0).random((50, NUM_FEATURES)).astype(np.float32)
ROWS[:, -3:] = np.eye(3)[np.arange(50) % 3]


def test_its_logits_are_the_mean_of_its_members() -> None:
    each = [BatchInference(AgentPolicy("m", House(), w)).logits(ROWS) for w in MEMBERS]
    together = BatchInference(AgentPolicy("e", House(), joined(MEMBERS))).logits(ROWS)
    np.testing.assert_allclose(together, np.mean(each, axis=0), rtol=1e-12)


@pytest.mark.parametrize("least", [0.0, 0.5, 0.8, 1.0])
def test_the_rule_answers_where_it_is_unsure(least: float) -> None:
    policy = AgentPolicy("e", House(), joined(MEMBERS), 0.5, min_confidence=least)
    answers = BatchInference(policy)(ROWS, np.ones((50, 3), bool))
    rule = ROWS[:, -3:].argmax(axis=1)
    departs = answers.verb != rule
    assert (answers.probability.max(axis=1)[departs] > least).all()
    assert departs.any() == (least < 1.0)
    # Who draws the maps answers the same.
    np.testing.assert_array_equal(greedy_verbs(policy, ROWS, np.ones(50, bool)), answers.verb)


def test_an_engine_follows_the_rule_if_certainty_is_asked_for() -> None:
    scenario = small_scenario()
    policy = AgentPolicy("e", House(), joined(MEMBERS), 0.5)
    trace = scenario.trace(0, "test")
    rule, bold, careful = (
        run_policy(scenario, each, trace).mean_latency_s
        for each in (AgentPolicy("r", House()), policy, replace(policy, min_confidence=1.0))
    )
    assert careful == rule and bold != rule
