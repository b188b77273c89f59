"""Small cases worked out by hand from docs/scheduler.md."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from rlkv_engine import rule as R
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Decision, Engine
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import BY_TRUTH
from rlkv_engine.loop import RULE_POLICY
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.profile import Profile
from rlkv_engine.trace import Trace
from tests.engine.reference_session import Turn
from tests.engine.reference_worlds import make_trace

LAST = nan  # the pause of a session's last turn

#: Blocks of 4 tokens, one block a second over the link, whole prompts in one iteration.
MACHINE = Profile(
    name="hand",
    description="round numbers",
    block_size=4,
    kv_bytes_per_token=1,
    num_device_blocks=100,
    num_host_blocks=100,
    iteration_s=0.5,
    prefill_token_s=0.01,
    prefill_token_context_s=0.001,
    decode_session_s=0.1,
    kv_token_s=0.002,
    swap_out_bytes_per_s=4.0,
    swap_in_bytes_per_s=4.0,
    swap_latency_s=0.0,
    shared_link=False,
    max_num_seqs=16,
    max_num_batched_tokens=1000,
)


def engine_of(
    sessions: list[list[Turn]],
    arrival_s: list[float] | None = None,
    *,
    order: int = R.ORDER_ELAPSED,
    num_concurrent: int = 0,
    switches: dict[str, Any] | None = None,
    **machine: Any,
) -> Engine:
    """An engine of these sessions on ``MACHINE`` changed so; the true pauses are the estimate."""
    rule = np.zeros(R.RULE_SIZE)
    rule[R.ORDER], rule[R.ESTIMATE] = order, BY_TRUTH
    rule[R.RESUME_VERB] = rule[R.GROW_VERB] = S.DISCARD
    trace = make_trace(sessions, arrival_s or [0.0] * len(sessions), num_concurrent)
    config = EngineConfig(**({"slack_ratio": 0.0} | (switches or {})))
    return Engine(replace(MACHINE, **machine), trace, rule, config=config)


def prefill_s(tokens: int, computed: int = 0) -> float:
    """Time of an iteration with one chunk alone."""
    return 0.5 + 0.01 * tokens + 0.001 * tokens * (computed + tokens / 2)


def decode_s(*computed: int) -> float:
    """Time of an iteration that decodes sessions with so many tokens each."""
    return 0.5 + 0.1 * len(computed) + 0.002 * sum(computed)


def finish_s(engine: Engine) -> list[float]:
    return [float(time_s) for time_s in engine.state.outcome[S.FINISH_S]]


def slot_of(engine: Engine, sid: int) -> dict[str, int]:
    """Blocks and tokens of a session."""
    slot = engine.state.slot
    live = np.flatnonzero((slot[S.PHASE] != S.EMPTY) & (slot[S.SID] == sid))
    names = ("PHASE", "COMPUTED", "DEV", "KEEP", "HOST_LO", "HOST_HI", "JOB")
    return {name.lower(): int(slot[getattr(S, name), live[0]]) for name in names}


def asked(engine: Engine, point: Any, sid: int) -> Decision:
    """The next decision, which must be this one."""
    decision = engine.next_decision()
    assert decision is not None and (decision.point, decision.sid) == (point, sid)
    return decision


def answer_call(engine: Engine, sid: int, verb: Any, lease_s: float = inf) -> None:
    asked(engine, S.CALL, sid)
    engine.answer(int(verb), lease_s)


def test_a_session_alone_takes_what_the_cost_formula_says() -> None:
    engine = engine_of([[Turn(10, 0, 3, LAST)]], [7.0])
    assert engine.next_decision() is None
    expected = 7.0 + prefill_s(10) + decode_s(10) + decode_s(11)
    assert finish_s(engine) == [pytest.approx(expected, rel=1e-12)]
    assert engine.state.resume_latency_s[0] == pytest.approx(prefill_s(10), rel=1e-12)
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


#: 9 tokens of KV at the pause, then 3 new ones.
PAUSING = [Turn(8, 0, 2, 5.0), Turn(12, 10, 1, LAST)]
PAUSE_START_S = prefill_s(8) + decode_s(8)
RETURN_S = PAUSE_START_S + 5.0


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


def host_world(longest_of_c: float) -> Engine:
    """c pauses first and stays; a and b fill the host tier of 4 blocks; d needs what c holds."""
    sessions = [
        [Turn(8, 0, 2, longest_of_c), Turn(12, 10, 1, LAST)],  # c
        [Turn(8, 0, 2, 90.0), Turn(12, 10, 1, LAST)],  # a, expected back last
        [Turn(8, 0, 2, 60.0), Turn(12, 10, 1, LAST)],  # b
        [Turn(12, 0, 1, LAST)],  # d
    ]
    engine = engine_of(sessions, [0.0, 2.0, 2.0, 20.0], num_device_blocks=9, num_host_blocks=4)
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


def test_a_copy_is_not_dropped_for_who_is_back_later() -> None:
    engine = host_world(longest_of_c=200.0)
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
        return Engine(profile, many_sessions(num_sessions), np.zeros(R.RULE_SIZE))

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
