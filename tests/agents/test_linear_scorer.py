from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkv_agents.linear_scorer import REQUESTERS, SCORED, SCORER_SHAPE, as_network
from rlkv_agents.policy import NUM_VERBS, AgentPolicy, from_tensors, to_tensors
from rlkv_agents.rules import make_rule
from rlkv_engine.loop import make_policy
from rlkv_engine.mlp import mlp_logits, mlp_verb
from rlkv_engine.observe import FEATURES, NUM_FEATURES

NAMES = [feature.name for feature in FEATURES]


def observations(point: str, num: int = 20, seed: int = 0) -> NDArray[np.float32]:
    """Random rows in which this requester asks."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-1.0, 1.0, (num, NUM_FEATURES)).astype(np.float32)
    rows[:, [i for i, name in enumerate(NAMES) if name.startswith("point_")]] = 0.0
    rows[:, NAMES.index(point)] = 1.0
    rows[:, -NUM_VERBS:] = np.eye(NUM_VERBS)[rng.integers(NUM_VERBS, size=num)]
    return rows


def logits(policy: AgentPolicy, row: NDArray[np.float32]) -> NDArray[np.float64]:
    compiled = make_policy(policy.weights, policy.prior)
    compiled.observation[:] = row
    out = np.zeros(NUM_VERBS)
    mlp_logits(compiled, out)
    return out


@pytest.mark.parametrize("stored", [False, True])
def test_logits_are_the_scores_of_whoever_asks(stored: bool) -> None:
    scorer = np.random.default_rng(1).standard_normal(SCORER_SHAPE).astype(np.float32)
    policy = AgentPolicy("linear", make_rule("house"), as_network(scorer), prior=1.0)
    if stored:  # as float32, as bundles are
        policy = from_tensors("linear", policy.rule, policy.prior, to_tensors(policy))
    for i, point in enumerate(REQUESTERS):
        for row in observations(point):
            scores = scorer[i].astype(np.float64) @ row[SCORED]
            error = logits(policy, row) - row[-NUM_VERBS:] - scores
            assert (np.abs(error) <= 1e-6 * np.maximum(1.0, np.abs(scores)) ** 3).all()


def test_a_scorer_of_zeros_and_every_scorer_at_a_call_is_the_rule() -> None:
    rng = np.random.default_rng(2)
    zero = np.zeros(SCORER_SHAPE, np.float32)
    wild = rng.standard_normal(SCORER_SHAPE).astype(np.float32)
    for scorer, points in ((zero, [*REQUESTERS, "point_call"]), (wild, ["point_call"])):
        compiled = make_policy(as_network(scorer), 1.0)
        for point in points:
            for row in observations(point):
                compiled.observation[:] = row
                assert mlp_verb(compiled, True) == row[-NUM_VERBS:].argmax()
