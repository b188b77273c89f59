from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkv_agents.inference import BatchInference
from rlkv_agents.policy import NUM_VERBS, AgentPolicy, from_tensors, range_of, to_tensors
from rlkv_agents.rules import make_rule
from rlkv_engine.errors import InputError
from rlkv_engine.mlp import knows, mlp_logits, mlp_verb
from rlkv_engine.observe import FEATURES, NUM_FEATURES
from tests.agents.small_scenario import random_network


def decisions(num: int = 400, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Random observations over the whole range of each feature, with masks."""
    rng = np.random.default_rng(seed)
    low, high = ([getattr(f, end) for f in FEATURES] for end in ("low", "high"))
    rows = rng.uniform(low, high, (num, NUM_FEATURES)).astype(np.float32)
    masks = np.ones((num, NUM_VERBS), np.bool_)
    masks[:, 1] = rng.random(num) < 0.5
    verbs = rng.integers(NUM_VERBS, size=num)
    verbs = np.where((verbs == 1) & ~masks[:, 1], 2, verbs)
    rows[:, -NUM_VERBS:] = np.eye(NUM_VERBS)[verbs]
    return rows, masks


def partly_trained() -> AgentPolicy:
    """A random network that knows about half of the decisions above."""
    policy = random_network(1)
    rows, _ = decisions()
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    high[[f.name for f in FEATURES].index("context")] = 0.5
    return replace(policy, trained_range=range_of(low, high))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("min_confidence", [0.0, 0.9])
def test_every_row_is_answered_as_in_the_engine(stored: bool, min_confidence: float) -> None:
    policy = replace(partly_trained(), min_confidence=min_confidence)
    if stored:
        read = from_tensors(policy.name, policy.rule, policy.prior, to_tensors(policy))
        policy = replace(read, min_confidence=min_confidence)
    rows, masks = decisions()
    answers = BatchInference(policy)(rows, masks)
    logits = BatchInference(policy).logits(rows)
    compiled, out = policy.compiled(), np.zeros(NUM_VERBS)
    for i, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        compiled.observation[:] = row
        assert answers.verb[i] == mlp_verb(compiled, bool(mask[1]))
        if min_confidence == 0.0:
            assert answers.by_rule[i] == (not knows(compiled))
        mlp_logits(compiled, out)
        np.testing.assert_allclose(logits[i], out, rtol=1e-12, atol=1e-12)
    assert 0.2 < answers.by_rule.mean() < 0.8
    known = BatchInference(replace(policy, min_confidence=0.0))(rows, masks)
    unsure = answers.by_rule & ~known.by_rule
    assert unsure.any() == (min_confidence > 0.0)
    assert (known.probability[unsure].max(axis=1) < 0.9).all()
    np.testing.assert_array_equal(answers.probability[unsure], rows[unsure, -NUM_VERBS:])
    assert len(np.unique(answers.verb[~answers.by_rule])) == NUM_VERBS


def test_probabilities() -> None:
    policy = partly_trained()
    rows, masks = decisions()
    answers = BatchInference(policy)(rows, masks)
    np.testing.assert_allclose(answers.probability.sum(axis=1), 1.0)
    assert (answers.probability[~masks] == 0.0).all()
    np.testing.assert_array_equal(answers.probability.argmax(axis=1), answers.verb)
    np.testing.assert_array_equal(answers.probability[answers.by_rule], rows[answers.by_rule, -3:])
    # By hand: the softmax of what is legal.
    i = int(np.flatnonzero(~answers.by_rule & ~masks[:, 1])[0])
    logit = BatchInference(policy).logits(rows[i : i + 1])[0]
    share = 1.0 / (1.0 + np.exp(logit[2] - logit[0]))
    np.testing.assert_allclose(answers.probability[i], [share, 0.0, 1.0 - share])


def test_equal_logits_are_answered_as_in_the_engine() -> None:
    zeros = [np.zeros_like(each) for each in random_network().weights or ()]
    policy = AgentPolicy("zeros", make_rule("house"), zeros, prior=0.0)
    rows, masks = decisions(20)
    masks[:] = True
    policy = replace(policy, weights=[*zeros[:5], np.array([0.0, 1.0, 1.0])])
    compiled = policy.compiled()
    compiled.observation[:] = rows[0]
    assert mlp_verb(compiled, True) == 2
    assert (BatchInference(policy)(rows, masks).verb == 2).all()


def test_a_rule_answers_with_its_own_verb() -> None:
    rows, masks = decisions()
    answers = BatchInference(AgentPolicy("house", make_rule("house")))(rows, masks)
    np.testing.assert_array_equal(np.eye(NUM_VERBS)[answers.verb], rows[:, -3:])
    np.testing.assert_array_equal(answers.probability, rows[:, -3:])
    assert answers.by_rule.all()
    with pytest.raises(InputError, match="house has no network"):
        BatchInference(AgentPolicy("house", make_rule("house"))).logits(rows)


def test_the_rule_answers_where_a_feature_is_not_a_number() -> None:
    rows, masks = decisions(3)
    rows[1, 4] = np.nan
    policy = replace(partly_trained(), trained_range=range_of(*np.array([[-9.0], [9.0]])))
    answers = BatchInference(policy)(rows, masks)
    assert answers.by_rule.tolist() == [False, True, False]
    assert np.isfinite(answers.probability).all()


def test_none_and_wrong_shapes() -> None:
    inference = BatchInference(partly_trained())
    rows, masks = decisions(3)
    assert inference(rows[:0], masks[:0]).verb.shape == (0,)
    with pytest.raises(InputError, match=rf"shape \(3, 5\), not \[num, {NUM_FEATURES}\]"):
        inference(rows[:, :5], masks)
    with pytest.raises(InputError, match=r"masks of shape \(2, 3\) for 3 observations"):
        inference(rows, masks[:2])
