from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_agents.house_rule import House
from rlkv_engine import facts as F
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.rule import victim_score
from rlkv_engine.victim_order import NUM_ORDER_TERMS, weighed_rows_s
from tests.agents.small_scenario import small_scenario

RNG_WEIGHTS = np.random.default_rng(3).normal(0.0, 0.7, (4, NUM_ORDER_TERMS))


def plain_order_s(row: np.ndarray, weights: np.ndarray) -> float:
    """The order of a row of facts, written out."""
    mean_s = row[F.MEAN_PAUSE_S]
    remaining = row[F.REMAINING_S] / mean_s
    for_new = 1.0 if row[F.POINT] == S.NEW else 0.0
    terms = [
        math.log(remaining),
        float(remaining < 1.0),
        math.log1p(row[F.ELAPSED_S] / mean_s),
        math.log(row[F.NUM_TURNS]),
        math.log((row[F.LIFE_S] - row[F.TOOL_WAIT_S]) / mean_s + 0.01),
        math.log(row[F.CONTEXT_TOKENS]),
        math.log(row[F.DEVICE_BLOCKS]),
        row[F.DIRTY_BLOCKS] / row[F.DEVICE_BLOCKS],
        for_new * math.log(row[F.NUM_TURNS]),
    ]
    return float(row[F.REMAINING_S] * math.exp(float(np.dot(weights, terms))))


@pytest.mark.parametrize("weights", RNG_WEIGHTS)
def test_the_engine_offers_by_the_order_that_its_facts_have(weights: np.ndarray) -> None:
    scenario = small_scenario(2.0, 60, 60)
    house = House(write_through=1.0).with_order(weights)
    table = scenario.table
    engine = Engine(scenario.profile, scenario.trace(0, "test"), house.params(table), table=table)
    seen, rank, last = set(), -1.0, math.inf
    while (decision := engine.next_decision()) is not None:
        if decision.point != S.CALL:
            engine.observe()
            row = engine.state.f[S.FACTS : S.FACTS + F.NUM_FACTS].copy()
            score = plain_order_s(row, weights)
            found = np.empty(1)
            weighed_rows_s(row[None], row[F.REMAINING_S : F.REMAINING_S + 1], weights, found)
            assert found[0] == pytest.approx(score, rel=1e-9)
            assert victim_score(engine.state, engine.state.n[S.DECISION_SLOT]) == pytest.approx(
                score, rel=1e-9
            )
            # Within an offer from the largest down.
            assert row[F.RANK] == 0.0 or row[F.RANK] != rank + 1.0 or score <= last * (1 + 1e-9)
            rank, last = row[F.RANK], score
            seen.add(decision.point)
        engine.answer(decision.rule_verb)
    assert {S.NEW, S.RESUME} <= seen


def test_without_weights_it_is_the_expected_remainder() -> None:
    facts = np.random.default_rng(0).uniform(0.5, 9.0, (50, F.NUM_FACTS))
    found = np.empty(50)
    weighed_rows_s(facts, facts[:, F.REMAINING_S], np.zeros(NUM_ORDER_TERMS), found)
    np.testing.assert_array_equal(found, facts[:, F.REMAINING_S])


@given(
    st.lists(
        st.sampled_from([0.0, 1e-9, 1.0, 7.5, 1e6, math.nan]),
        min_size=F.NUM_FACTS,
        max_size=F.NUM_FACTS,
    )
)
def test_what_is_not_known_has_a_place_all_the_same(row: list[float]) -> None:
    facts = np.array([row])
    # These have no default: without them there is no decision (facts.py).
    for needed in (F.BLOCK_SIZE, F.CONTEXT_TOKENS):
        facts[0, needed] = 16.0
    for known in (F.ELAPSED_S, F.NUM_TURNS, F.POINT):
        facts[0, known] = np.nan_to_num(facts[0, known])
    found = np.empty(1)
    weighed_rows_s(facts, np.array([2.0]), RNG_WEIGHTS[0], found)
    assert np.isfinite(found[0]) and found[0] >= 0.0
