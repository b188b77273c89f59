"""Memory is short: small cases worked out by hand from docs/scheduler.md, sections 3 to 6."""

from __future__ import annotations

from math import isfinite

import pytest

from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from tests.engine.hand_machine import (
    LAST,
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


def test_only_what_is_missing_is_taken_and_from_the_tail() -> None:
    # 3 firm blocks, 5 free; the newcomer needs 7: two are asked for.
    sessions = [PAUSING, [Turn(28, 0, 1, LAST)]]
    engine = engine_of(sessions, [0.0, 3.0], num_device_blocks=8)
    answer_call(engine, 0, S.PRESERVE)
    decision = asked(engine, S.NEW, 0)
    assert decision.take_blocks == 2
    assert slot_of(engine, 0)["keep"] == 3
    engine.answer(int(S.DISCARD))
    assert slot_of(engine, 0) | {"keep": 1, "dev": 3} == slot_of(engine, 0)
    engine.check_integrity()
    assert engine.next_decision() is None
    # The first block is still there.
    assert engine.state.n[S.RECOMPUTED_TOKENS] == 5
    assert finish_s(engine)[0] == pytest.approx(RETURN_S + prefill_s(8, 4), rel=1e-12)


@pytest.mark.parametrize(("slack_ratio", "take"), [(0.0, 2), (0.01, 3), (0.125, 3), (0.2, 3)])
def test_slack_asks_for_more_than_is_missing(slack_ratio: float, take: int) -> None:
    # ceil(ratio * 8 blocks) more, as far as the session has them.
    sessions = [PAUSING, [Turn(28, 0, 1, LAST)]]
    switches = {"slack_ratio": slack_ratio}
    engine = engine_of(sessions, [0.0, 3.0], num_device_blocks=8, switches=switches)
    answer_call(engine, 0, S.PRESERVE)
    assert asked(engine, S.NEW, 0).take_blocks == take


def test_slack_asks_the_next_session_too() -> None:
    sessions = [PAUSING, PAUSING, [Turn(8, 0, 1, LAST)]]
    for slack_ratio, num_asked in ((0.0, 1), (3 / 7, 2)):
        engine = engine_of(
            sessions, [0.0, 0.0, 4.0], num_device_blocks=7, switches={"slack_ratio": slack_ratio}
        )
        answer_call(engine, 0, S.PRESERVE)
        answer_call(engine, 1, S.PRESERVE)
        revisited = 0
        while (decision := engine.next_decision()) is not None and decision.point == S.NEW:
            engine.answer(int(S.DISCARD))
            revisited += 1
        assert revisited == num_asked


@pytest.mark.parametrize("num_host_blocks", [0, 1])
def test_without_a_host_tier_even_a_swap_without_copies_is_a_discard(num_host_blocks: int) -> None:
    # One block is short: the partial last one, which is never copied.
    sessions = [PAUSING, [Turn(21, 0, 1, LAST)]]
    engine = engine_of(sessions, [0.0, 3.0], num_device_blocks=8, num_host_blocks=num_host_blocks)
    assert asked(engine, S.CALL, 0).swap_legal == (num_host_blocks > 0)
    engine.answer(int(S.PRESERVE))
    decision = asked(engine, S.NEW, 0)
    assert decision.take_blocks == 1 and decision.swap_legal == (num_host_blocks > 0)
    engine.answer(int(S.SWAP))
    # Swapped it is free at once; discarded it may be used again, until the newcomer takes it.
    assert engine.state.n[S.FREE] == 5 + num_host_blocks
    assert engine.state.n[S.RECLAIMABLE] == 1 - num_host_blocks
    assert engine.next_decision() is None
    assert engine.state.n[S.BLOCKS_OUT] == engine.state.n[S.BLOCKS_IN] == 0
    engine.check_integrity()


def test_what_was_written_through_is_free_at_once_when_swapped() -> None:
    # The write-through copies both full blocks in 2 s; the newcomer takes all three.
    sessions = [PAUSING, [Turn(31, 0, 1, LAST)]]
    engine = engine_of(sessions, [0.0, 4.0], num_device_blocks=8)
    answer_call(engine, 0, S.SWAP)
    assert engine.state.n[S.HOST_FREE] == 98
    decision = asked(engine, S.NEW, 0)
    assert decision.take_blocks == 3 and decision.swap_legal
    assert slot_of(engine, 0) | {"host_lo": 0, "host_hi": 2, "job": 0} == slot_of(engine, 0)
    assert engine.state.n[S.FREE] == 5
    engine.answer(int(S.SWAP))
    assert engine.state.n[S.FREE] == 8 and engine.state.n[S.PENDING] == 0
    assert engine.next_decision() is None
    assert finish_s(engine)[1] == pytest.approx(4.0 + prefill_s(31), rel=1e-12)
    # Two blocks come back in 2 s of iterations of 0.5 s without work, then four tokens are left.
    assert finish_s(engine)[0] == pytest.approx(RETURN_S + 2.0 + prefill_s(4, 8), rel=1e-9)
    assert engine.state.n[S.BLOCKS_OUT] == engine.state.n[S.BLOCKS_IN] == 2
    assert engine.state.n[S.RECOMPUTED_TOKENS] == 1


def test_what_was_not_has_to_be_copied_first() -> None:
    sessions = [PAUSING, [Turn(31, 0, 1, LAST)]]
    engine = engine_of(sessions, [0.0, 3.0], num_device_blocks=8)
    answer_call(engine, 0, S.PRESERVE)
    asked(engine, S.NEW, 0)
    engine.answer(int(S.SWAP))
    # The partial third block goes at once; two are under way, one a second.
    assert engine.state.n[S.FREE] == 6 and engine.state.n[S.PENDING] == 2
    assert engine.next_decision(until_s=4.2) is None
    engine.check_integrity()
    assert slot_of(engine, 0)["host_hi"] - slot_of(engine, 0)["host_lo"] == 1
    assert engine.next_decision() is None
    assert finish_s(engine)[1] == pytest.approx(3.0 + 2.0 + prefill_s(31), rel=1e-9)


def test_without_overlap_the_engine_waits_for_its_copies() -> None:
    sessions = [PAUSING, [Turn(31, 0, 1, LAST)]]
    switches = {"overlap_swap": False}
    engine = engine_of(sessions, [0.0, 3.0], num_device_blocks=8, switches=switches)
    answer_call(engine, 0, S.PRESERVE)
    asked(engine, S.NEW, 0)
    engine.answer(int(S.SWAP))
    assert engine.next_decision() is None
    # An empty iteration of 0.5 s with 2 s of copying out; 2 s of copying in where it is found.
    assert finish_s(engine)[1] == pytest.approx(3.0 + 2.5 + prefill_s(31), rel=1e-9)
    assert engine.state.f[S.STALL_S] == pytest.approx(4.0)


def host_world(longest_of_c: float, host_victims: bool = True) -> Engine:
    """c pauses first and stays; a and b fill the host tier of 4 blocks; d needs what c holds."""
    sessions = [
        [Turn(8, 0, 2, longest_of_c), Turn(12, 10, 1, LAST)],  # c
        [Turn(8, 0, 2, 90.0), Turn(12, 10, 1, LAST)],  # a, expected back last
        [Turn(8, 0, 2, 60.0), Turn(12, 10, 1, LAST)],  # b
        [Turn(12, 0, 1, LAST)],  # d
    ]
    engine = engine_of(
        sessions, [0.0, 2.0, 2.0, 20.0], num_device_blocks=9, num_host_blocks=4,
        switches={"host_victims": host_victims},
    )  # fmt: skip
    answer_call(engine, 0, S.PRESERVE)
    answer_call(engine, 1, S.SWAP)
    answer_call(engine, 2, S.SWAP)
    return engine


def test_a_full_host_drops_the_copy_of_who_is_expected_back_last() -> None:
    engine = host_world(longest_of_c=50.0)
    decision = asked(engine, S.NEW, 0)
    assert engine.state.n[S.HOST_FREE] == 0
    assert decision.swap_legal and decision.take_blocks == 3
    engine.answer(int(S.SWAP))
    a, b = slot_of(engine, 1), slot_of(engine, 2)
    assert a["host_hi"] == a["host_lo"] and (b["host_lo"], b["host_hi"]) == (0, 2)
    # a keeps its blocks on the device: only the copy was dropped.
    assert a["keep"] == a["dev"] == 3
    engine.check_integrity()
    assert engine.next_decision(until_s=30.0) is None
    c = slot_of(engine, 0)
    assert (c["host_lo"], c["host_hi"], c["dev"]) == (0, 2, 0)


@pytest.mark.parametrize(("longest_of_c", "host_victims"), [(200.0, True), (50.0, False)])
def test_a_copy_is_not_dropped_for_who_is_back_later_nor_without_host_victims(
    longest_of_c: float, host_victims: bool
) -> None:
    engine = host_world(longest_of_c, host_victims)
    decision = asked(engine, S.NEW, 0)
    assert not decision.swap_legal
    engine.answer(int(S.SWAP))  # counts as DISCARD
    assert slot_of(engine, 0) | {"keep": 0, "dev": 3, "job": 0} == slot_of(engine, 0)
    for sid in (1, 2):
        assert slot_of(engine, sid)["host_hi"] == 2
    engine.check_integrity()


def test_a_refused_admission_asks_again_after_a_while() -> None:
    first = [Turn(24, 0, 1, 20.0), Turn(28, 25, 1, LAST)]
    engine = engine_of([first, [Turn(24, 0, 1, LAST)]], [0.0, 10.0], num_device_blocks=8)
    answer_call(engine, 0, S.PRESERVE)
    asked(engine, S.NEW, 0)
    assert engine.now_s == 10.0
    engine.answer(int(S.PRESERVE))
    asked(engine, S.NEW, 0)
    assert engine.now_s == pytest.approx(12.0)  # 0.1 of the mean pause of 20 s
    engine.answer(int(S.PRESERVE))
    asked(engine, S.NEW, 0)
    assert engine.now_s == pytest.approx(14.0)
    engine.answer(int(S.DISCARD))
    assert engine.next_decision() is None
    assert finish_s(engine)[1] == pytest.approx(14.0 + prefill_s(24), rel=1e-12)


def test_it_does_not_ask_more_than_twice_a_second() -> None:
    # The mean pause is 2 s.
    quick = engine_of(
        [[Turn(24, 0, 1, 2.0), Turn(28, 25, 1, LAST)], [Turn(24, 0, 1, LAST)]],
        [0.0, 1.5],
        num_device_blocks=8,
    )
    answer_call(quick, 0, S.PRESERVE)
    asked(quick, S.NEW, 0)
    quick.answer(int(S.PRESERVE))
    asked(quick, S.NEW, 0)
    assert quick.now_s == pytest.approx(2.0)


def test_the_end_of_a_session_lets_it_ask_before_the_retry() -> None:
    sessions = [
        [Turn(16, 0, 1, 500.0), Turn(20, 17, 1, LAST)],
        [Turn(8, 0, 6, LAST)],
        [Turn(24, 0, 1, LAST)],
    ]
    engine = engine_of(sessions, [0.0, 10.0, 10.2], num_device_blocks=8)
    answer_call(engine, 0, S.PRESERVE)
    asked(engine, S.NEW, 0)
    assert engine.now_s == pytest.approx(10.0 + prefill_s(8))
    engine.answer(int(S.PRESERVE))
    asked(engine, S.NEW, 0)
    end_s = 10.0 + prefill_s(8) + sum(decode_s(8 + i) for i in range(5))
    assert engine.now_s == pytest.approx(end_s)  # not 50 s later


@pytest.mark.parametrize(("pause_s", "asks"), [(400.0, True), (300.0, False)])
def test_a_longer_pause_lets_it_ask_before_the_retry(pause_s: float, asks: bool) -> None:
    # The first is expected back at 350 s: it counts whether the other pause is longer than that.
    sessions = [
        [Turn(16, 0, 1, 350.0), Turn(20, 17, 1, LAST)],
        [Turn(8, 0, 6, pause_s), Turn(16, 13, 1, LAST)],
        [Turn(24, 0, 1, LAST)],
    ]
    engine = engine_of(sessions, [0.0, 10.0, 10.2], num_device_blocks=8)
    answer_call(engine, 0, S.PRESERVE)
    asked(engine, S.NEW, 0)
    refused_s = engine.now_s
    engine.answer(int(S.PRESERVE))
    answer_call(engine, 1, S.PRESERVE)
    pause_start_s = engine.now_s
    decision = engine.next_decision()
    assert decision is not None and decision.point == S.NEW
    retry_s = refused_s + 0.1 * (350.0 + pause_s) / 2
    assert engine.now_s == pytest.approx(pause_start_s if asks else retry_s)


def test_it_is_admitted_without_asking_once_there_is_room() -> None:
    # The lease of the first ends at once after the refusal: nobody has to be asked.
    first = [Turn(24, 0, 1, 50.0), Turn(28, 25, 1, LAST)]
    engine = engine_of([first, [Turn(24, 0, 1, LAST)]], [0.0, 10.0], num_device_blocks=8)
    answer_call(engine, 0, S.PRESERVE, lease_s=10.0)
    asked(engine, S.NEW, 0)
    engine.answer(int(S.PRESERVE))
    assert engine.next_decision() is None
    lease_end_s = prefill_s(24) + 10.0
    assert 10.0 < lease_end_s < 15.0
    assert finish_s(engine)[1] == pytest.approx(lease_end_s + prefill_s(24), rel=1e-12)


@pytest.mark.parametrize(("num_paused", "num_asked"), [(5, 5), (8, 8), (11, 8)])
def test_after_eight_that_are_kept_the_rule_takes_over(num_paused: int, num_asked: int) -> None:
    # One block each fills the pool; the first comes back and needs two more.
    waiting = [Turn(4, 0, 1, 500.0), Turn(8, 5, 1, LAST)]
    engine = engine_of(
        [[Turn(4, 0, 1, 5.0), Turn(12, 5, 1, LAST)], *[waiting] * num_paused],
        num_device_blocks=num_paused + 1,
    )
    for sid in range(num_paused + 1):
        answer_call(engine, sid, S.PRESERVE)
    for k in range(num_asked):
        # All have waited as long: the last to arrive is asked first.
        assert asked(engine, S.RESUME, num_paused - k).take_blocks == 1
        engine.answer(int(S.PRESERVE))
    assert engine.next_decision(until_s=7.0) is None
    assert engine.state.n[S.NUM_FORCED] == 2
    keep = [slot_of(engine, sid)["keep"] for sid in range(1, num_paused + 1)]
    assert keep == [1] * (num_paused - 2) + [0, 0]
    assert isfinite(finish_s(engine)[0])
    engine.check_integrity()


def test_a_newcomer_takes_nobodys_blocks_against_their_will() -> None:
    first = [Turn(24, 0, 1, 20.0), Turn(28, 25, 1, LAST)]
    engine = engine_of([first, [Turn(24, 0, 1, LAST)]], [0.0, 10.0], num_device_blocks=8)
    answer_call(engine, 0, S.PRESERVE)
    while (decision := engine.next_decision()) is not None:
        assert decision.point == S.NEW
        engine.answer(int(S.PRESERVE))
    assert engine.state.n[S.NUM_FORCED] == engine.state.n[S.NUM_PREEMPTIONS] == 0
    assert finish_s(engine)[1] > finish_s(engine)[0] > prefill_s(24) + 20.0
