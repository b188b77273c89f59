from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_engine.errors import InputError
from rlkv_service.client.outbox import MAX_BATCH, Outbox, Ticket
from rlkv_service.schema import Outcome, Refusal
from tests.service.client.asking import outcome


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 5)),
            st.tuples(st.just("begin"), st.just(0)),
            st.tuples(st.just("written"), st.just(0)),
        ),
        max_size=60,
    ),
    st.integers(1, 6),
)
def test_messages_are_written_in_order_or_dropped_and_counted(
    steps: list[tuple[str, int]], max_messages: int
) -> None:
    outbox, num_put = Outbox(max_messages), 0
    written: set[int] = set()
    under_way: list[int] = []
    tickets: list[tuple[Ticket, range]] = []
    for step, num in steps:
        if step == "put":
            turns = range(num_put, num_put + num)
            tickets.append((outbox.put([outcome("s", turn) for turn in turns]), turns))
            num_put += num
        elif step == "begin":
            under_way = [message.turn for message in outbox.begin()]
            assert under_way == sorted(under_way) and not written & set(under_way)
        else:
            outbox.written()
            written |= set(under_way)
            under_way = []
        assert len(outbox) <= max_messages
        assert outbox.num_written + len(outbox) + outbox.num_dropped == num_put
        for ticket, turns in tickets:
            if outbox.was_written(ticket):
                assert set(turns) <= written
    # What waits longest goes first, and nothing that waits is lost.
    left = [message.turn for message in outbox.begin()]
    assert left == list(range(num_put - len(outbox), num_put))


def test_a_step_is_no_longer_than_a_batch() -> None:
    outbox = Outbox(1000)
    ticket = outbox.put([outcome("s", turn) for turn in range(MAX_BATCH + 5)])
    assert len(outbox.begin()) == MAX_BATCH
    outbox.written()
    assert not outbox.was_written(ticket)
    assert [message.turn for message in outbox.begin()] == list(range(MAX_BATCH, MAX_BATCH + 5))
    outbox.written()
    assert outbox.was_written(ticket) and len(outbox) == 0


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Refusal(1, 1, "no"), "Refusal is no Outcome"),
        ({"session": "s"}, "dict is no Outcome"),
        (outcome("s" * 300), "a name of 300 characters"),
        (outcome("\ud800"), "nobody can read this Outcome"),
        (outcome("s", "first"), r"nobody can read this Outcome: .*\$\.turn"),  # type: ignore[arg-type]
        (Outcome(2, "e", "s", 0, "t", 1.0, 1), "version 2, this rlkv reads 1"),
    ],
)
def test_what_is_no_outcome_is_refused(message: Any, why: str) -> None:
    outbox = Outbox(10)
    with pytest.raises(InputError, match=why):
        outbox.put([outcome("good"), message])
    assert len(outbox) == 0
