"""Sessions that are added, paused and resumed while the engine runs."""

from __future__ import annotations

import numpy as np
import pytest

from rlkv_engine import live
from rlkv_engine import state as S
from rlkv_engine.errors import InputError
from rlkv_engine.live import MAX_TURNS, LiveEngine
from rlkv_engine.loop import RULE_POLICY
from rlkv_engine.rule import RULE_SIZE
from tests.engine.paged.small_engine import pause_table, tiny_profile


def live_engine() -> LiveEngine:
    return LiveEngine(tiny_profile(), np.zeros(RULE_SIZE), pause_table())


def run(engine: LiveEngine, num_iterations: int) -> None:
    for _ in range(num_iterations):
        engine.plan_memory(RULE_POLICY)
        plan = engine.start_iteration(0.01)
        assert plan is not None
        engine.end_iteration(plan, plan.expected_s)
        engine.check_integrity()


def test_a_turn_ends_with_its_output_and_the_next_begins_when_it_is_resumed() -> None:
    engine = live_engine()
    session = engine.add(10, 3)
    assert engine.phase(session) == S.QUEUED
    run(engine, 3)
    assert engine.phase(session) == S.PAUSED
    run(engine, 5)
    assert engine.phase(session) == S.PAUSED
    engine.pause(session, "search")
    engine.resume(session, 20, 13, 2)
    run(engine, 1)
    assert engine.phase(session) == S.DECODE
    assert engine.state.n[S.COMPUTED_TOKENS] == 12 + 8
    run(engine, 1)
    assert engine.phase(session) == S.PAUSED


def test_a_turn_ends_where_it_is_told_to() -> None:
    engine = live_engine()
    session = engine.add(5, 80)
    run(engine, 4)
    engine.pause(session, "shell")
    assert engine.phase(session) == S.PAUSED
    slot = engine.slot_of(session)
    assert slot is not None and engine.sid_of(slot) == session
    # Of the last token no KV has been computed.
    assert engine.state.slot[S.COMPUTED, slot] == 5 + 4 - 1
    assert engine.state.turns[S.TOOL, engine.state.slot[S.TURN, slot]] == 1


def test_what_a_session_calls_is_what_its_pause_is_estimated_by() -> None:
    engine = live_engine()
    rows = []
    for tool in ("search", "shell", "never seen"):
        session = engine.add(5, 1)
        run(engine, 1)
        engine.pause(session, tool)
        slot = engine.slot_of(session)
        assert slot is not None
        rows.append(int(engine.state.turns[S.TOOL, engine.state.slot[S.TURN, slot]]))
    assert rows == [0, 1, 2]


def test_a_session_of_many_turns_goes_on_in_its_last_columns() -> None:
    engine = live_engine()
    session, neighbour = engine.add(4, 1), engine.add(5, 1)
    run(engine, 2)
    for turn in range(2 * MAX_TURNS):
        engine.resume(session, 4 + turn % 3, 2, 1)
        run(engine, 1)
        assert engine.phase(session) == S.PAUSED
    assert engine.phase(neighbour) == S.PAUSED
    engine.resume(neighbour, 6, 6, 1)
    run(engine, 1)
    assert engine.num_sessions == 2


@pytest.mark.parametrize("phase", ["waiting", "prefill", "decode", "paused"])
def test_whoever_is_cancelled_leaves_nothing(phase: str) -> None:
    engine = live_engine()
    other = engine.add(8, 20)
    session = engine.add(40, 3)
    run(engine, {"waiting": 0, "prefill": 1, "decode": 3, "paused": 6}[phase])
    engine.cancel(session)
    run(engine, 3)
    assert engine.phase(other) == S.DECODE
    engine.cancel(other)
    run(engine, 1)
    assert engine.num_sessions == 0
    assert engine.state.n[S.FREE] == engine.profile.num_device_blocks
    assert engine.state.f[S.ACTIVE_WEIGHT] == pytest.approx(0.0, abs=1e-12)


def test_columns_of_sessions_that_have_ended_are_used_again() -> None:
    engine = live_engine()
    kept = None
    for i in range(3 * live.FIRST_SESSIONS):
        session = engine.add(5, 2)
        assert session == i
        run(engine, 2)
        if i == live.FIRST_SESSIONS // 2:
            kept = session
        else:
            engine.cancel(session)
    assert kept is not None and engine.phase(kept) == S.PAUSED
    assert engine.num_sessions == 1
    # The oldest that lives keeps the columns behind it; those before it are used again.
    assert len(engine.state.first_turn) - 1 <= 4 * live.FIRST_SESSIONS
    engine.resume(kept, 9, 6, 2)
    run(engine, 2)
    assert engine.phase(kept) == S.PAUSED


def test_sessions_come_and_go_for_ever_in_the_same_columns() -> None:
    engine = live_engine()
    for _ in range(3 * live.FIRST_SESSIONS + 1):
        session = engine.add(5, 1)
        run(engine, 1)
        engine.cancel(session)
    engine.check_integrity()
    assert len(engine.state.first_turn) - 1 == live.FIRST_SESSIONS


def test_what_cannot_be_is_refused() -> None:
    engine = live_engine()
    with pytest.raises(InputError, match="needs 26 blocks of 4 tokens, the device pool has 24"):
        engine.add(100, 1)
    session = engine.add(10, 1)
    with pytest.raises(ValueError, match="is not paused"):
        engine.resume(session, 12, 10, 1)
    run(engine, 1)
    with pytest.raises(InputError, match="needs 30 blocks"):
        engine.resume(session, 100, 10, 20)
