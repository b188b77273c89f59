from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlkv_agents.house_rule import House
from rlkv_engine import facts as F
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_service.columns import DecisionRows
from rlkv_service.local_rule import LOCAL_VERSION, LocalRule
from rlkv_service.schema import LOCAL_REASONS, Point, Reason, Verb
from tests.agents.small_scenario import small_scenario


@pytest.mark.parametrize(
    ("guard_pauses", "swap_ratio", "write_through", "new_swaps", "num_host_blocks"),
    [
        (0.5, 8.0, True, True, 250),
        (0.5, 8.0, True, True, 20),
        (2.0, 0.7, False, True, 250),
        (0.0, 0.0, True, False, 60),
        (1.0, 1e9, False, False, 0),
    ],
)
def test_the_local_rule_is_the_compiled_house_rule(
    guard_pauses: float,
    swap_ratio: float,
    write_through: bool,
    new_swaps: bool,
    num_host_blocks: int,
) -> None:
    house = House(guard_pauses, swap_ratio, float(write_through), float(new_swaps))
    rule = LocalRule(guard_pauses, swap_ratio, write_through, new_swaps)
    rng = np.random.default_rng(7)
    facts, expected = [], []
    for seed, rate_per_s in enumerate((0.7, 2.0)):
        scenario = small_scenario(rate_per_s, 60, num_host_blocks)
        table = scenario.table
        trace = scenario.trace(seed, "test")
        engine = Engine(scenario.profile, trace, house.params(table), table=table)
        while (decision := engine.next_decision()) is not None:
            engine.observe()
            facts.append(engine.state.f[S.FACTS : S.FACTS + F.NUM_FACTS].copy())
            # rule_verb and what becomes of a SWAP without room.
            verb = decision.rule_verb
            if verb == Verb.SWAP and not decision.swap_legal:
                verb = Verb.PRESERVE if decision.point == Point.CALL else Verb.DISCARD
            expected.append(verb)
            legal = [v for v in Verb if v != Verb.SWAP or decision.swap_legal]
            # Mostly the rule's answer, and others, to get to states where the rule does not lead.
            engine.answer(verb if rng.random() < 0.7 else int(rng.choice(np.array(legal))))
    rows = np.array(facts)
    assert len(rows) > 300
    assert {Point.CALL, Point.NEW} < set(rows[:, F.POINT])
    assert (rule.verbs(rows) == expected).all()
    assert (rows[:, F.RULE_VERB] == expected).all()
    verdicts = rule.verdicts(rows_of_facts(rows), Reason.LATE)
    assert (verdicts.verb == expected).all()


def rows_of_facts(facts: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> DecisionRows:
    num = len(facts)
    return DecisionRows(["s"] * num, np.zeros(num, np.int64), ["t"] * num, facts)


def test_who_is_told_by_the_verdicts() -> None:
    facts = np.ones((3, F.NUM_FACTS))
    facts[:, F.POINT] = [Point.CALL, Point.NEW, Point.RESUME]
    facts[:, F.REMAINING_S] = [4.0, 0.1, 1.0]
    verdicts = replace(LocalRule(write_through=False)).verdicts(rows_of_facts(facts), Reason.LATE)
    assert verdicts.policy_version == LOCAL_VERSION
    assert verdicts.verb.tolist() == [Verb.PRESERVE, Verb.PRESERVE, Verb.SWAP]
    assert verdicts.lease_s.tolist() == pytest.approx([8.0, 0.2, 0.0])
    assert verdicts.soft_priority.tolist() == [20, 91, 50]
    assert verdicts.fallback_used.tolist() == [1, 1, 1]
    assert set(verdicts.reason) == {Reason.LATE}


def test_what_is_not_known_is_guessed() -> None:
    facts = np.ones((4, F.NUM_FACTS))
    facts[:, F.POINT] = Point.NEW
    facts[:, F.MEAN_PAUSE_S] = [np.nan, 2.0, 2.0, np.nan]
    facts[:, F.ELAPSED_S] = [0.0, 1.0, 9.0, np.nan]
    facts[:, F.REMAINING_S] = np.nan
    verdicts = LocalRule().verdicts(rows_of_facts(facts), Reason.LATE)
    # As long again as it has lasted, at least a mean pause; that of nobody's knowledge is a second.
    assert verdicts.expected_return_p50_s.tolist() == [1.0, 2.0, 9.0, 1.0]


@pytest.mark.parametrize(
    ("point", "host_free", "dirty", "short", "verb"),
    [
        (Point.NEW, 3, 3, 9, Verb.SWAP),
        (Point.NEW, 2, 3, 9, Verb.DISCARD),
        (Point.NEW, 2, 9, 2, Verb.SWAP),
        (Point.NEW, 0, np.nan, 0, Verb.DISCARD),
        (Point.CALL, 1, 9, 0, Verb.SWAP),
        (Point.CALL, 0, 9, 0, Verb.PRESERVE),
    ],
)
def test_room_on_the_host_is_guessed_from_its_free_blocks(
    point: Point, host_free: int, dirty: float, short: int, verb: Verb
) -> None:
    facts = np.ones((1, F.NUM_FACTS))
    facts[0, F.POINT] = point
    facts[0, F.SWAP_IS_LEGAL] = np.nan
    facts[0, F.NUM_HOST_BLOCKS] = 10
    facts[0, F.HOST_FREE_BLOCKS] = host_free
    facts[0, F.DIRTY_BLOCKS] = dirty
    facts[0, F.SHORT_BLOCKS] = short
    assert LocalRule(write_through=True).verbs(facts).tolist() == [verb]


@given(
    arrays(np.float64, st.tuples(st.integers(1, 5), st.just(F.NUM_FACTS))),
    st.sampled_from(LOCAL_REASONS),
)
def test_impossible_facts_have_a_verdict_all_the_same(
    facts: np.ndarray[tuple[int, ...], np.dtype[np.float64]], reason: Reason
) -> None:
    verdicts = LocalRule().verdicts(rows_of_facts(facts), reason)
    assert len(verdicts) == len(facts)
    assert set(verdicts.verb) <= set(Verb)
    assert set(verdicts.reason) == {reason}
