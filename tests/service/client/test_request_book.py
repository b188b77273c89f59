from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_engine.errors import InputError
from rlkv_engine.facts import NUM_FACTS
from rlkv_service.client import DecisionRows
from rlkv_service.client.request_book import RequestBook, check_rows
from rlkv_service.schema import DecisionRequest, Reason, decode
from tests.service.client import answering
from tests.service.client.asking import check_rows_match, rows_about

LONG_S = 1e9


def opened(book: RequestBook, first: int = 1, num: int = 2, deadline_s: float = 10.0) -> bytes:
    _, payload = book.open(
        rows_about(first, num), first, deadline_s, reply_to="here", server_deadline_s=None
    )
    return payload


def request_of(payload: bytes) -> DecisionRequest:
    return decode(payload, DecisionRequest)


@given(st.data())
def test_answers_in_any_order_go_to_their_own_rows(data: st.DataObject) -> None:
    book = RequestBook("engine", "")
    firsts = data.draw(st.lists(st.integers(1, 900), min_size=1, max_size=8, unique=True))
    payloads = [opened(book, first, num=1 + first % 3) for first in firsts]
    answers = [answering.answer(request_of(payload)) for payload in payloads]
    # Some twice: the second time nobody waits for it.
    order = data.draw(st.permutations(answers + answers[: len(answers) // 2]))
    found = {}
    for answer in order:
        assert answer is not None
        if (settled := book.settle(answer, 1.0)) is not None:
            assert settled.verdicts is not None
            assert settled.asked.tag not in found
            check_rows_match(settled.asked.rows, settled.verdicts)
            found[settled.asked.tag] = settled
    assert set(found) == set(firsts) and len(book) == 0


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (answering.unreadable, Reason.MALFORMED),
        (answering.too_few_rows, Reason.MALFORMED),
        (answering.other_version, Reason.MALFORMED),
        (answering.client_reason, Reason.MALFORMED),
        (answering.refusal, Reason.REFUSED),
    ],
)
def test_an_answer_that_cannot_be_used_ends_its_request(
    script: answering.Script, reason: Reason
) -> None:
    book = RequestBook("engine", "")
    other, request = opened(book, 1), request_of(opened(book, 50))
    assert other
    answer = script(request)
    assert answer is not None
    settled = book.settle(answer, 1.0)
    assert settled is not None
    assert settled.asked.tag == 50 and settled.verdicts is None and settled.reason is reason
    assert len(book) == 1


@pytest.mark.parametrize(
    ("script", "blame"),
    [(answering.garbage, Reason.MALFORMED), (answering.other_id, Reason.MISMATCHED)],
)
def test_an_answer_to_nobody_is_blamed_on_those_that_get_none(
    script: answering.Script, blame: Reason
) -> None:
    book = RequestBook("engine", "")
    request = request_of(opened(book, 1, deadline_s=5.0))
    answer = script(request)
    assert answer is not None and book.settle(answer, 1.0) is None
    opened(book, 9, deadline_s=5.0)
    assert book.expire(4.9) == []
    first, second = book.expire(5.0)
    assert (first.reason, second.reason) == (blame, Reason.LATE)


def test_an_answer_after_the_deadline_is_late_and_after_the_end_nothing() -> None:
    book = RequestBook("engine", "")
    answers = [answering.answer(request_of(opened(book, i, deadline_s=5.0))) for i in (1, 2)]
    assert answers[0] is not None and answers[1] is not None
    settled = book.settle(answers[0], 5.1)
    assert settled is not None and settled.verdicts is None and settled.reason is Reason.LATE
    assert len(book.expire(5.1)) == 1
    opened(book, 3, deadline_s=9.0)
    assert book.settle(answers[1], 6.0) is None
    # It was only late: the request that waits is not told that answers go astray.
    assert book.expire(9.0)[0].reason is Reason.LATE


def test_requests_are_given_up() -> None:
    book = RequestBook("engine", "")
    assert book.next_deadline_s() == math.inf
    opened(book, 1, deadline_s=7.0)
    opened(book, 2, deadline_s=5.0)
    opened(book, 3, deadline_s=6.0)
    assert book.next_deadline_s() == 5.0
    (ended,) = book.give_up(Reason.DISCONNECTED, [2, 99])
    assert ended.asked.tag == 2 and ended.reason is Reason.DISCONNECTED
    assert [each.asked.tag for each in book.give_up(Reason.DISCONNECTED)] == [1, 3]
    assert len(book) == 0


def test_rows_that_do_not_fit_each_other_are_refused() -> None:
    rows = rows_about(1, 3)
    with pytest.raises(InputError, match=r"facts have the shape \(2, 36\), not \(3, 36\)"):
        check_rows(DecisionRows(rows.sessions, rows.turns, rows.tools, rows.facts[:2]))
    with pytest.raises(InputError, match="3 turns and 2 tools for 3 sessions"):
        check_rows(DecisionRows(rows.sessions, rows.turns, rows.tools[:2], rows.facts))
    with pytest.raises(InputError, match="1025 rows at once, at most 1024"):
        check_rows(rows_about(1, 1025))
    assert rows.facts.shape[1] == NUM_FACTS
