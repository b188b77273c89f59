"""Rows written ahead are those of the offer that opens."""

from __future__ import annotations

import numpy as np
import pytest

from rlkv_agents.rules import make_rule
from rlkv_engine import facts as F
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.hypothetical import first_candidates, make_candidates, write_offer
from rlkv_envs.scenario import Scenario
from tests.agents.small_scenario import small_scenario


def engine_of(scenario: Scenario) -> Engine:
    return Engine(
        scenario.profile,
        scenario.trace(0, "test"),
        make_rule("house").params(scenario.table),
        table=scenario.table,
    )


@pytest.mark.parametrize("num_host_blocks", [250, 8, 0])
def test_rows_are_those_of_the_offer_that_opens(num_host_blocks: int) -> None:
    engine = engine_of(small_scenario(num_host_blocks=num_host_blocks))
    candidates, usual = make_candidates(16), np.zeros(4, np.int64)
    rows = np.zeros((16, F.NUM_FACTS))
    compared = {S.NEW: 0, S.RESUME: 0, S.GROW: 0}
    kept = True  # whether every candidate of the offer was kept so far
    written = 0
    while (decision := engine.next_decision()) is not None:
        st = engine.state
        if decision.point == S.CALL:
            engine.answer(S.SWAP)
            continue
        facts = engine.facts()
        rank = int(facts[F.RANK])
        if rank == 0:
            before = [array.copy() for array in st]
            written = first_candidates(st, candidates)
            write_offer(st, decision.point, usual, candidates, written, rows)
            for name, was, now in zip(st._fields, before, st, strict=True):
                np.testing.assert_array_equal(was, now, err_msg=name)
            kept = True
        if kept and rank < written:
            np.testing.assert_array_equal(facts, rows[rank])
            compared[decision.point] += 1
        verb = (S.PRESERVE, S.PRESERVE, S.SWAP, S.DISCARD)[st.n[S.NUM_DECISIONS] % 4]
        kept = kept and verb == S.PRESERVE
        engine.answer(verb)
    assert min(compared.values()) > 5, compared


def test_where_memory_is_not_short_yet_it_is_taken_to_be() -> None:
    engine = engine_of(small_scenario())
    candidates, usual = make_candidates(4), np.array([0, 7, 0, 0])
    rows = np.zeros((4, F.NUM_FACTS))
    looked = 0
    while (decision := engine.next_decision()) is not None and looked < 40:
        st = engine.state
        found = first_candidates(st, candidates)
        engine.answer(S.PRESERVE)
        if decision.point != S.CALL or not found or st.n[S.FREE] < 20:
            continue
        looked += 1
        for kind in (S.NEW, S.RESUME, S.GROW):
            write_offer(st, kind, usual, candidates, found, rows)
            available = rows[:found, F.FREE_BLOCKS : F.PENDING_BLOCKS + 1].sum(axis=1)
            need, short = rows[:found, F.NEED_BLOCKS], rows[:found, F.SHORT_BLOCKS]
            assert (available < need).all()
            assert (short == need + st.n[S.SLACK] - available).all()
            assert (rows[:found, F.RANK] == np.arange(found)).all()
            assert (rows[:found, F.WAIT_S] >= 0).all()
            if kind == S.NEW and st.n[S.NEXT_NEW] == st.n[S.NEXT_ARRIVAL]:
                assert (need == 7).all()
    assert looked > 5


def test_candidates_come_in_the_order_of_offers() -> None:
    engine = engine_of(small_scenario())
    few, many = make_candidates(3), make_candidates(64)
    while (decision := engine.next_decision()) is not None:
        if decision.point != S.CALL and engine.facts()[F.RANK] == 0:
            total, first = first_candidates(engine.state, many), first_candidates(engine.state, few)
            assert first == min(total, 3)
            assert few.slot[:first].tolist() == many.slot[:first].tolist()
            assert many.slot[0] == engine.open_slot
            assert (np.diff(many.score[:total]) <= 0).all()
        engine.answer(S.DISCARD if decision.point == S.GROW else S.PRESERVE)
