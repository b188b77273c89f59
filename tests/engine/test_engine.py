"""Small cases worked out by hand from docs/scheduler.md."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest

from rlkv_engine import rule as R
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.errors import InputError
from rlkv_engine.latency import first_token_s
from rlkv_engine.loop import RULE_POLICY
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.trace import Trace
from tests.engine.hand_machine import (
    LAST,
    MACHINE,
    PAUSE_START_S,
    PAUSING,
    RETURN_S,
    answer_call,
    asked,
    decode_s,
    engine_of,
    finish_s,
    prefill_s,
    slot_of,
)
from tests.engine.reference_session import Turn
from tests.engine.reference_worlds import make_trace


def test_a_session_alone_takes_what_the_cost_formula_says() -> None:
    engine = engine_of([[Turn(10, 0, 3, LAST)]], [7.0])
    assert engine.next_decision() is None
    expected = 7.0 + prefill_s(10) + decode_s(10) + decode_s(11)
    assert finish_s(engine) == [pytest.approx(expected, rel=1e-12)]
    first_s = first_token_s(engine.state)
    assert first_s.count == 1 and first_s.mean_s == pytest.approx(prefill_s(10), rel=1e-12)
    assert engine.state.f[S.COST] == pytest.approx((expected - 7.0) / 3, rel=1e-12)


def test_chunks_share_the_budget_with_decoding() -> None:
    # Six tokens an iteration: 6 and 4 of the first prompt, then one decode leaves 5 for the second.
    sessions = [[Turn(10, 0, 4, LAST)], [Turn(9, 0, 1, LAST)]]
    engine = engine_of(sessions, max_num_batched_tokens=6, max_num_seqs=2)
    assert engine.next_decision() is None
    area = 4 * (6 + 2) + 2 * 1
    second_s = 0.5 + 0.01 * 6 + 0.001 * area
    third_s = decode_s(10) + 0.01 * 5 + 0.001 * 5 * (2 + 2.5)
    fourth_s = decode_s(11) + 0.01 * 2 + 0.001 * 2 * (7 + 1)
    end_s = prefill_s(6) + second_s + third_s + fourth_s
    assert finish_s(engine) == [
        pytest.approx(end_s + decode_s(12), rel=1e-12),
        pytest.approx(end_s, rel=1e-12),
    ]


def test_without_chunks_a_prompt_is_never_cut() -> None:
    sessions = [[Turn(10, 0, 1, LAST)], [Turn(9, 0, 1, LAST)]]
    engine = engine_of(
        sessions, max_num_batched_tokens=6, max_num_seqs=2, switches={"chunked_prefill": False}
    )
    assert engine.next_decision() is None
    first_s = prefill_s(10)
    assert finish_s(engine) == [
        pytest.approx(first_s, rel=1e-12),
        pytest.approx(first_s + prefill_s(9), rel=1e-12),
    ]


def test_first_come_first_served() -> None:
    # Room for one; the later one would be done sooner, and fits the free blocks from 1 s on.
    sessions = [[Turn(16, 0, 1, LAST)], [Turn(16, 0, 1, LAST)], [Turn(4, 0, 1, LAST)]]
    engine = engine_of(sessions, [0.0, 0.1, 0.2], num_device_blocks=5)
    assert engine.next_decision() is None
    first_s = prefill_s(16)
    second_s = first_s + 0.5 + 0.01 * 20 + 0.001 * (16 * 8 + 4 * 2)
    assert finish_s(engine) == [
        pytest.approx(first_s, rel=1e-12),
        pytest.approx(second_s, rel=1e-12),
        pytest.approx(second_s, rel=1e-12),
    ]
    one_at_a_time = engine_of(sessions, [0.0, 0.1, 0.2], max_num_seqs=1)
    one_at_a_time.next_decision()
    assert finish_s(one_at_a_time) == [
        pytest.approx(first_s, rel=1e-12),
        pytest.approx(2 * first_s, rel=1e-12),
        pytest.approx(2 * first_s + prefill_s(4), rel=1e-12),
    ]


@pytest.mark.parametrize(
    ("verb", "reuse", "recomputed"),
    [(S.PRESERVE, True, 0), (S.DISCARD, True, 0), (S.DISCARD, False, 9)],
)
def test_discarded_blocks_serve_again_until_they_are_overwritten(
    verb: Any, reuse: bool, recomputed: int
) -> None:
    engine = engine_of([PAUSING], switches={"reuse_discarded": reuse})
    answer_call(engine, 0, verb)
    assert engine.now_s == pytest.approx(PAUSE_START_S)
    kept = verb == S.PRESERVE
    assert engine.state.n[S.FREE] == 97 + (0 if reuse else 3)
    assert engine.state.n[S.RECLAIMABLE] == (0 if kept or not reuse else 3)
    assert engine.next_decision() is None
    computed = 9 - recomputed
    expected = RETURN_S + prefill_s(12 - computed, computed)
    assert finish_s(engine) == [pytest.approx(expected, rel=1e-12)]
    assert engine.state.n[S.RECOMPUTED_TOKENS] == recomputed
    assert engine.state.n[S.COMPUTED_TOKENS] == 12 + recomputed


def test_overwriting_takes_the_tail_and_no_more_than_is_needed() -> None:
    # 3 soft blocks and 5 free ones; the newcomer needs 6: one is overwritten, 8 tokens stay.
    sessions = [PAUSING, [Turn(24, 0, 1, LAST)]]
    engine = engine_of(sessions, [0.0, 3.0], num_device_blocks=8)
    answer_call(engine, 0, S.DISCARD)
    assert engine.next_decision() is None
    assert finish_s(engine) == [
        pytest.approx(RETURN_S + prefill_s(4, 8), rel=1e-12),
        pytest.approx(3.0 + prefill_s(24), rel=1e-12),
    ]
    assert engine.state.n[S.RECOMPUTED_TOKENS] == 1


@pytest.mark.parametrize(("lease_s", "firm"), [(0.0, 0), (2.0, 0), (2.5, 3), (inf, 3)])
def test_a_lease_ends_when_it_says(lease_s: float, firm: int) -> None:
    engine = engine_of([PAUSING, [Turn(4, 0, 1, LAST)]], [0.0, PAUSE_START_S + 2.1])
    answer_call(engine, 0, S.PRESERVE, lease_s)
    assert engine.next_decision(until_s=PAUSE_START_S + 2.05) is None
    assert slot_of(engine, 0) | {"keep": firm, "dev": 3} == slot_of(engine, 0)


def test_a_decoding_session_preempts_the_youngest() -> None:
    # 4 blocks each fill the pool; the first grows at its 17th token and pushes the second out.
    sessions = [[Turn(14, 0, 8, LAST)], [Turn(14, 0, 8, LAST)]]
    engine = engine_of(sessions, num_device_blocks=8)
    assert engine.next_decision() is None
    assert engine.state.n[S.NUM_PREEMPTIONS] == 1
    first, second = finish_s(engine)
    both_s = 0.5 + 0.01 * 28 + 0.001 * 2 * 14 * 7 + decode_s(14, 14) + decode_s(15, 15)
    first_s = both_s + sum(decode_s(16 + i) for i in range(5))
    assert first == pytest.approx(first_s, rel=1e-12)
    # It had emitted 3 tokens: 17 need KV before the fourth. Two of its four blocks were
    # overwritten, so that 8 tokens stay, 8 are computed again and the 17th is new.
    assert second == pytest.approx(
        first_s + prefill_s(9, 8) + sum(decode_s(17 + i) for i in range(4)), rel=1e-12
    )
    assert engine.state.n[S.RECOMPUTED_TOKENS] == 8


def test_requeued_to_the_tail_a_session_waits_behind_new_ones() -> None:
    def ends_s(requeue: bool) -> list[float]:
        sessions = [[Turn(8, 0, 1, 2.0), Turn(12, 9, 1, LAST)], *[[Turn(8, 0, 9, LAST)]] * 2]
        engine = engine_of(sessions, max_num_seqs=1, switches={"requeue_to_tail": requeue})
        answer_call(engine, 0, S.PRESERVE)
        engine.next_decision()
        return finish_s(engine)

    kept, requeued = ends_s(False), ends_s(True)
    assert kept[0] < kept[2]
    assert requeued[0] > requeued[2]


def test_a_closed_loop_lets_one_in_as_one_ends() -> None:
    engine = engine_of([[Turn(8, 0, 1, LAST)]] * 4, num_concurrent=2)
    assert engine.next_decision() is None
    two_s = 0.5 + 0.01 * 16 + 0.001 * 2 * 8 * 4
    np.testing.assert_allclose(finish_s(engine), [two_s, two_s, 2 * two_s, 2 * two_s])
    np.testing.assert_allclose(engine.state.outcome[S.ARRIVED_S], [0, 0, two_s, two_s])


@pytest.mark.parametrize(
    ("stamps_s", "problem"),
    [
        ([0.0, 0.5, 0.6, 9.0], None),
        ([0.0, 1.0, 0.0, 0.0], None),
        ([0.0, 1.1, 1.1, 1.1], r"world: session 's1' arrives at 1.1 s, when 's0' may .* 1 s on"),
        ([0.0, 0.0, 0.0, 0.0], None),
    ],
)
def test_a_closed_loop_begins_with_all_of_its_first(
    stamps_s: list[float], problem: str | None
) -> None:
    # Two tokens take two iterations of 0.5 s at least; stamps after the first two are not used.
    sessions = [[Turn(8, 0, 2, LAST)]] * 4
    trace = make_trace(sessions, [0.0] * 4).with_arrivals(np.array(stamps_s), num_concurrent=2)
    if problem is not None:
        with pytest.raises(InputError, match=problem):
            Engine(MACHINE, trace, np.zeros(R.RULE_SIZE))
        # Nobody waits for an end where all may come at once.
        everybody = trace.with_arrivals(trace.arrival_s, num_concurrent=4)
        assert Engine(MACHINE, everybody, np.zeros(R.RULE_SIZE)).run(RULE_POLICY)
        return
    engine = Engine(MACHINE, trace, np.zeros(R.RULE_SIZE), keep_outcome=True)
    assert engine.run(RULE_POLICY)
    arrived_s, ended_s = engine.state.outcome
    np.testing.assert_array_equal(arrived_s[:2], stamps_s[:2])
    np.testing.assert_array_equal(arrived_s[2:], np.sort(ended_s)[:2])


def test_pauses_of_a_closed_loop_count_too() -> None:
    sessions = [[Turn(8, 0, 1, 3.0), Turn(12, 9, 1, LAST)]] * 2
    assert engine_of([*sessions, *sessions], [0.0, 4.0, 4.0, 4.0], num_concurrent=2)
    with pytest.raises(InputError, match=r"'s1' arrives at 4.1 s, when 's0' .*from 4 s on"):
        engine_of([*sessions, *sessions], [0.0, 4.1, 4.1, 4.1], num_concurrent=2)


def test_a_session_larger_than_the_pool_is_refused() -> None:
    fits = [[Turn(12, 0, 4, LAST)]]
    assert engine_of(fits, num_device_blocks=4).next_decision() is None
    with pytest.raises(InputError, match=r"world: session 's1' turn 1 needs 17 tokens .* holds 16"):
        engine_of([*fits, [Turn(4, 0, 1, 1.0), Turn(12, 0, 5, LAST)]], num_device_blocks=4)


def many_sessions(count: int) -> Trace:
    return make_trace([[Turn(4, 0, 3, 3.0), Turn(8, 7, 2, LAST)]] * count, [0.0] * count)


@pytest.mark.parametrize("num_sessions", [64, 65, 300])
def test_slots_grow_with_the_sessions(num_sessions: int) -> None:
    def build() -> Engine:
        profile = replace(
            MACHINE, num_device_blocks=4096, max_num_seqs=1000, max_num_batched_tokens=4096
        )
        rule = np.zeros(R.RULE_SIZE)
        return Engine(profile, many_sessions(num_sessions), rule, keep_outcome=True)

    engine = build()
    assert engine.run(RULE_POLICY)
    num_slots = engine.state.slot.shape[1]
    assert num_slots == {64: 64, 65: 128, 300: 512}[num_sessions]
    assert engine.state.n[S.NUM_FREE_SLOTS] == num_slots
    engine.check_integrity()
    answered = build()
    while answered.next_decision() is not None:
        answered.answer(int(S.PRESERVE))
    np.testing.assert_array_equal(engine.state.outcome, answered.state.outcome)
    # All sessions are alike and always together.
    assert len(set(finish_s(engine))) == 1


def test_answers_and_observations_need_an_open_decision() -> None:
    engine = engine_of([PAUSING])
    with pytest.raises(RuntimeError, match="call next_decision first"):
        engine.answer(0)
    with pytest.raises(RuntimeError, match="call next_decision first"):
        engine.observe()
    asked(engine, S.CALL, 0)
    assert engine.observe().shape == (NUM_FEATURES,)
    assert engine.next_decision() == asked(engine, S.CALL, 0)  # it stays open until answered
