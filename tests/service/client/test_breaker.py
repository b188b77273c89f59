from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_engine.errors import InputError
from rlkv_service.client.breaker import Breaker, BreakerSettings, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState


def steady(**settings: Any) -> Breaker:
    return Breaker(BreakerSettings(jitter_ratio=0.0, **settings))


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = steady(max_failures=3)
    for _ in range(5):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert not breaker.is_open
    for _ in range(3):
        breaker.failed(7.0)
    assert breaker.is_open and breaker.probe_at_s == 7.05


def test_probes_come_less_and_less_often_until_one_is_answered() -> None:
    breaker = steady(first_probe_s=1.0, max_probe_s=5.0)
    breaker.lost(0.0)
    waits = []
    for _ in range(5):
        now_s = breaker.probe_at_s
        breaker.probed(False, now_s)
        waits.append(breaker.probe_at_s - now_s)
    assert waits == [2.0, 4.0, 5.0, 5.0, 5.0]
    breaker.probed(True, 100.0)
    assert breaker.state is HALF_OPEN and breaker.probe_at_s == math.inf
    breaker.succeeded()
    assert breaker.state is CLOSED
    breaker.lost(200.0)
    assert breaker.probe_at_s == 201.0


def test_a_server_that_answers_probes_alone_is_asked_less_and_less_often() -> None:
    breaker = steady(first_probe_s=1.0, max_probe_s=5.0)
    breaker.lost(0.0)
    opened = []
    for _ in range(4):
        breaker.probed(True, breaker.probe_at_s)
        breaker.failed(0.0)
        opened.append(breaker.probe_at_s)
    assert opened == [2.0, 4.0, 5.0, 5.0]


def test_a_late_success_does_not_close_it() -> None:
    breaker = steady()
    breaker.lost(0.0)
    breaker.succeeded()
    assert breaker.is_open


def happen(breaker: Breaker, event: str, now_s: float) -> None:
    match event:
        case "ok":
            breaker.succeeded()
        case "failed":
            breaker.failed(now_s)
        case "lost":
            breaker.lost(now_s)
        case "unreachable":
            breaker.unreachable(now_s)
        case _:
            breaker.probed(event == "probe ok", now_s)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ok", "failed", "lost", "probe ok", "probe failed", "unreachable"]),
        st.floats(0.0, 10.0),
    ),
    max_size=80,
)


@given(EVENTS, st.integers(1, 5), st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_whatever_happens_it_is_as_its_description_says(
    events: list[tuple[str, float]], max_failures: int, seed: int, jitter_ratio: float
) -> None:
    settings = BreakerSettings(max_failures, 0.5, 8.0, jitter_ratio, seed)
    breaker, twin = Breaker(settings), Breaker(settings)
    now_s, state, failures, wait_s = 0.0, CLOSED, 0, 0.5
    for event, step_s in events:
        now_s += step_s
        for each in (breaker, twin):
            happen(each, event, now_s)
        opens = False
        if state is OPEN:
            if event == "probe ok":
                state = HALF_OPEN
            opens = event in ("probe failed", "unreachable")
        elif event == "ok":
            failures = 0
            if state is HALF_OPEN:
                state, wait_s = CLOSED, 0.5
        elif event == "failed":
            failures += 1
            opens = state is HALF_OPEN or failures == max_failures
        elif event in ("lost", "unreachable"):
            opens = True
        if opens:
            left_s = breaker.probe_at_s - now_s
            assert wait_s * (1.0 - jitter_ratio) - 1e-9 <= left_s <= wait_s + 1e-9
            state, failures, wait_s = OPEN, 0, min(2.0 * wait_s, 8.0)
        assert breaker.state is state
        assert (breaker.probe_at_s == math.inf) == (state is not OPEN)
        # Chance comes from the seed.
        assert breaker.probe_at_s == twin.probe_at_s


@pytest.mark.parametrize(
    "settings",
    [
        {"max_failures": 0},
        {"first_probe_s": 0.0},
        {"first_probe_s": 2.0, "max_probe_s": 1.0},
        {"max_probe_s": math.inf},
        {"jitter_ratio": 1.5},
        {"jitter_ratio": math.nan},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        BreakerSettings(**settings)
