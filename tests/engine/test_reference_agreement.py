"""The compiled engine does in every iteration what the plain Python reference does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import given, settings

from rlkv_engine import rule as R
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Engine
from rlkv_engine.latency import FIRST_GAP, FIRST_TURNS, GAP_BUCKETS_S, NUM_LATENCIES, SESSIONS
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from tests.engine.reference_scheduler import ReferenceScheduler
from tests.engine.reference_session import Kind, Outcome, Plan
from tests.engine.reference_worlds import Answers, World, WorldPolicy, worlds

KINDS = {int(S.NEW): Kind.NEW, int(S.RESUME): Kind.RESUME, int(S.GROW): Kind.DECODE}
MAX_LOG_ROWS = 100_000


def run_reference(world: World, answers: Answers) -> Outcome:
    policy = WorldPolicy(world, answers)
    return ReferenceScheduler(world.trace, world.profile, policy, world.modes).run()


def build_engine(world: World, log_rows: int) -> Engine:
    rule = np.zeros(R.RULE_SIZE)
    rule[R.ORDER] = world.rule.order
    rule[R.ORDER_WEIGHTS : R.ORDER_WEIGHTS + NUM_ORDER_TERMS] = world.rule.weights
    rule[R.ESTIMATE] = world.rule.estimate
    rule[R.RESUME_VERB] = world.rule.forced_resume
    rule[R.GROW_VERB] = world.rule.forced_decode
    modes = world.modes
    config = EngineConfig(
        slack_ratio=modes.slack_ratio,
        overlap_swap=modes.overlap_swap,
        chunked_prefill=modes.chunked_prefill,
        requeue_to_tail=modes.requeue_to_tail,
        reuse_discarded=modes.reuse_discarded,
        host_victims=modes.host_victims,
    )
    return Engine(
        world.profile, world.trace, rule, table=world.table, config=config, log_rows=log_rows,
        keep_outcome=True,
    )  # fmt: skip


def run_engine(engine: Engine, answers: Answers) -> None:
    while (decision := engine.next_decision()) is not None:
        engine.check_integrity()
        asked = (decision.sid, decision.turn, decision.take_blocks)
        if decision.point == S.CALL:
            engine.answer(*answers.call(engine.now_s, *asked))
        else:
            engine.answer(answers.revisit(engine.now_s, KINDS[decision.point], *asked))
    engine.check_integrity()


def plans_of(engine: Engine) -> list[tuple[Plan, int]]:
    """Plans as the reference writes them, with the number of decoding sessions."""
    plans: dict[int, Plan] = {}
    num_decodes: dict[int, int] = {}
    assert len(engine.log) < MAX_LOG_ROWS
    for now_s, iteration, code, sid, amount in engine.log.tolist():
        if code in (S.LOG_RETURN, S.LOG_FIRST_TOKEN):
            continue
        # The first row of an iteration is written before time moves.
        plan = plans.setdefault(int(iteration), Plan(now_s))
        sid, amount = int(sid), int(amount)
        if code == S.LOG_PREFILL:
            plan.prefills.append((sid, amount))
        elif code == S.LOG_DECODE:
            num_decodes[int(iteration)] = sid
        elif code == S.LOG_LOAD:
            plan.loaded[sid] += amount
        elif code == S.LOG_COPY_OUT:
            plan.copied[sid] += amount
        else:
            events = {
                S.LOG_ADMIT: plan.admitted,
                S.LOG_PREEMPT: plan.preempted,
                S.LOG_PAUSE: plan.paused,
                S.LOG_FINISH: plan.finished,
            }
            events[code].append(sid)
    for plan in plans.values():
        plan.prefills.sort()
    return [(plan, num_decodes.get(iteration, 0)) for iteration, plan in plans.items()]


def assert_same_plans(expected: list[Plan], actual: list[tuple[Plan, int]]) -> None:
    for number, (want, got) in enumerate(zip_longest(expected, actual)):
        assert want is not None and got is not None, (number, want, got)
        plan, num_decodes = got
        assert num_decodes == len(want.decodes), (number, want, got)
        # The log of the engine counts the decoding sessions, it does not name them.
        plan.decodes = want.decodes
        assert plan.now_s == pytest.approx(want.now_s, rel=1e-9, abs=0), (number, want, plan)
        plan.now_s = want.now_s
        assert plan == want, (number, want, plan)


def assert_same_times(expected: Outcome, engine: Engine) -> None:
    finish_s = engine.state.outcome[S.FINISH_S]
    assert {sid: finish_s[sid] for sid in expected.finish_s} == pytest.approx(
        expected.finish_s, rel=1e-9, abs=0
    )
    # What the histograms hold: sums and counts of sessions, of first turns, and of others by pause
    # before.
    gap_s = np.concatenate([[np.nan], engine.trace.pause_s[:-1]])
    total_s, count = np.zeros((2, NUM_LATENCIES))
    for (sid, turn), latency_s in expected.resume_latency_s.items():
        before_s = gap_s[engine.trace.first_turn[sid] + turn]
        row = FIRST_GAP + np.searchsorted(GAP_BUCKETS_S, before_s, side="right")
        total_s[row if turn else FIRST_TURNS] += latency_s
        count[row if turn else FIRST_TURNS] += 1
    trace, arrived_s = engine.trace, engine.state.outcome[S.ARRIVED_S]
    for sid, end_s in expected.finish_s.items():
        active_s = end_s - arrived_s[sid] - trace.total_pause_s[sid]
        total_s[SESSIONS] += active_s / trace.output_tokens_per_session[sid]
        count[SESSIONS] += 1
    np.testing.assert_allclose(engine.state.latency[:, 0], total_s, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(engine.state.latency[:, 1:].sum(axis=1), count)


def assert_same_latencies(expected: Outcome, engine: Engine) -> None:
    rows = engine.log[engine.log[:, 2] == S.LOG_FIRST_TOKEN]
    turns = Counter[int]()
    latency_s = {}
    for sid, seconds in zip(rows[:, 3].astype(int).tolist(), rows[:, 4].tolist(), strict=True):
        latency_s[sid, turns[sid]] = seconds
        turns[sid] += 1
    assert latency_s == pytest.approx(expected.resume_latency_s, rel=1e-9, abs=1e-12)


@given(worlds())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_plans_questions_and_times_agree(world: World) -> None:
    assert_agreement(world)


@given(worlds())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_they_agree_on_a_learned_order(world: World) -> None:
    assert_agreement(replace(world, rule=replace(world.rule, order=R.ORDER_WEIGHED)))


@pytest.mark.slow
@given(worlds())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_they_agree_in_many_worlds(world: World) -> None:
    assert_agreement(world)


def assert_agreement(world: World) -> None:
    expected_answers = Answers(world.seed)
    expected = run_reference(world, expected_answers)
    # Without a log the engine takes pure decode iterations in one go.
    for log_rows in (MAX_LOG_ROWS, 0):
        answers = Answers(world.seed)
        engine = build_engine(world, log_rows)
        run_engine(engine, answers)

        if log_rows:
            assert_same_plans(expected.plans, plans_of(engine))
            assert_same_latencies(expected, engine)
        assert answers.questions == expected_answers.questions
        assert_same_times(expected, engine)


@given(worlds())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_reference_serves_every_session_first_come_first_served(world: World) -> None:
    outcome = run_reference(world, Answers(world.seed))

    assert len(outcome.finish_s) == world.trace.num_sessions
    assert len(outcome.resume_latency_s) == world.trace.num_turns
    assert min(outcome.resume_latency_s.values()) > 0
    admitted = list(dict.fromkeys(sid for plan in outcome.plans for sid in plan.admitted))
    assert admitted == sorted(admitted)
    num_decodes = sum(len(plan.decodes) for plan in outcome.plans)
    # A turn's first token ends a prefill; others do too after a preemption.
    assert num_decodes <= world.trace.output_tokens.sum() - world.trace.num_turns
