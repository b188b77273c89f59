from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_service.decision_log.log_reader import OutcomeEntry
from rlkv_service.decision_log.session_trace import SessionCounts, trace_of_outcomes
from rlkv_service.schema import SCHEMA_VERSION, Outcome, SessionEnd
from tests.service.decision_log.logged import START_S, drawn, messages_of

COLUMNS = ("input_tokens", "shared_prefix_tokens", "output_tokens", "pause_s")


def made(
    messages: Sequence[Outcome | SessionEnd], min_sessions: int = 1
) -> tuple[Trace, SessionCounts]:
    entries = [OutcomeEntry(f"{i}-0", START_S + i, each) for i, each in enumerate(messages)]
    return trace_of_outcomes(entries, "log", path="log", min_sessions=min_sessions)


def assert_same_sessions(ours: Trace, theirs: Trace) -> None:
    assert list(ours.session_ids) == list(theirs.session_ids)
    assert ours.first_turn.tolist() == theirs.first_turn.tolist()
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    named = [
        [trace.tools[i] if i >= 0 else None for i in trace.tool.tolist()]
        for trace in (ours, theirs)
    ]
    assert named[0] == named[1]
    np.testing.assert_allclose(np.diff(ours.arrival_s), np.diff(theirs.arrival_s), atol=1e-5)


@pytest.mark.parametrize("workload", ["coding-agent", "infercept", "chat-bursts", "crossover"])
def test_the_trace_of_what_was_reported_is_the_one_that_was_served(workload: str) -> None:
    served = drawn(60, workload)
    trace, counts = made(messages_of(served))
    assert_same_sessions(trace, served)
    assert counts.as_json() == SessionCounts(num_sessions=60).as_json()
    assert list(trace.roots) == list(trace.session_ids)


def test_messages_may_come_in_any_order() -> None:
    served = drawn(30)
    messages = messages_of(served)
    random.Random(1).shuffle(messages)
    trace, counts = made(messages)
    assert_same_sessions(trace, served)
    assert counts.num_gaps == counts.num_open == 0


@given(st.sets(st.integers(0, 400), max_size=60))
@settings(max_examples=40)
def test_lost_messages_cut_sessions_and_make_nothing_up(lost: set[int]) -> None:
    served = drawn(30, "crossover")
    messages = messages_of(served)
    kept = [each for i, each in enumerate(messages) if i not in lost]
    trace, counts = made(kept)
    by_session: dict[str, dict[int, Outcome | SessionEnd]] = {}
    for message in kept:
        by_session.setdefault(message.session, {})[message.turn] = message
    assert counts.num_sessions == len(by_session)
    assert trace.num_turns == len(kept)
    assert set(trace.roots) == set(by_session)
    assert trace.num_sessions == counts.num_sessions + counts.num_gaps
    # Between turns that were both said everything is as it was.
    followed = {
        (session, turn)
        for session, turns in by_session.items()
        for turn in turns
        if turn + 1 in turns
    }
    assert int(np.isfinite(trace.pause_s).sum()) == len(followed)
    expected = sorted(by_session[session][turn].pause_s for session, turn in followed)  # type: ignore[union-attr]
    assert sorted(trace.pause_s[np.isfinite(trace.pause_s)].tolist()) == expected
    known_lost = sum(max(turns) + 1 - len(turns) for turns in by_session.values())
    assert counts.num_lost_turns == known_lost


def test_sessions_that_go_on_are_closed_where_the_log_ends() -> None:
    served = drawn(30)
    messages = [each for each in messages_of(served) if isinstance(each, Outcome)]
    trace, counts = made(messages)
    assert counts.num_open == counts.num_sessions == len({each.session for each in messages})
    assert (
        trace.num_turns == len(messages) and np.isnan(trace.pause_s[trace.first_turn[1:] - 1]).all()
    )


def test_without_new_tokens_all_of_the_context_is_taken_to_be_in_the_next_prompt() -> None:
    served = drawn(30)
    trace, _ = made(messages_of(served, with_new_tokens=False))
    later = np.ones(trace.num_turns, bool)
    later[trace.first_turn[:-1]] = False
    context = np.roll(served.input_tokens + served.output_tokens, 1)
    expected = np.where(later, np.minimum(context, served.input_tokens), 0)
    assert trace.shared_prefix_tokens.tolist() == expected.tolist()


def test_a_name_that_is_used_again_is_another_session_of_the_same_root() -> None:
    first = Outcome(SCHEMA_VERSION, "e", "s", 0, "t", 1.0, 20, 10, 10)
    end = SessionEnd(SCHEMA_VERSION, "e", "s", 1, 30, 5)
    other = SessionEnd(SCHEMA_VERSION, "e", "s~1", 0, 30, 5)
    trace, counts = made([other, first, end, first, end, first])
    assert counts.num_sessions == 4 and counts.num_open == 1
    assert list(trace.roots) == ["s~1", "s", "s", "s"]
    assert len(set(trace.session_ids)) == 4


def test_sessions_of_two_engines_are_kept_apart() -> None:
    messages = [*messages_of(drawn(10), "one"), *messages_of(drawn(10), "two")]
    trace, counts = made(messages)
    assert counts.num_sessions == 20
    assert sum(name.startswith("one/") for name in trace.session_ids) == 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_tokens": -5},
        {"input_tokens": 2**31},
        {"input_tokens": 0, "context_tokens": 1},
        {"output_tokens": 0},
        {"pause_s": float("nan")},
        {"pause_s": float("inf")},
        {"new_tokens": -1},
        {"turn": -1},
        {"started_s": float("nan")},
    ],
)
def test_what_cannot_be_is_left_out_and_counted(wrong: dict[str, float]) -> None:
    usable = messages_of(drawn(5))
    message = Outcome(SCHEMA_VERSION, "engine", "another", 0, "t", 1.0, 20, 10, 10)
    for name, value in wrong.items():
        setattr(message, name, value)
    trace, counts = made([message, SessionEnd(SCHEMA_VERSION, "engine", "another", 1), *usable])
    assert counts.num_unusable == 2 and counts.num_sessions == trace.num_sessions == 5


def test_tokens_that_were_not_said_follow_from_the_context() -> None:
    messages: list[Outcome | SessionEnd] = [
        Outcome(SCHEMA_VERSION, "e", "s", turn, "t", 1.0, 100 + turn) for turn in range(3)
    ]
    trace, _ = made(messages)
    assert trace.input_tokens.tolist() == [99, 100, 101]
    assert trace.output_tokens.tolist() == [1, 1, 1]


def test_too_few_sessions_are_refused_with_their_number() -> None:
    with pytest.raises(InputError, match=r"^log: 10 sessions with known tokens .* 20 are needed"):
        made(messages_of(drawn(10)), 20)
    with pytest.raises(InputError, match=r"^log: 0 sessions"):
        made([], 20)
    ends: list[Outcome | SessionEnd] = [
        SessionEnd(SCHEMA_VERSION, "e", f"{i}", 0, 10, 10) for i in range(30)
    ]
    with pytest.raises(InputError, match="none of the 30 sessions has a second turn"):
        made(ends, 20)
