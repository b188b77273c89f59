"""Which session a prompt goes on with, and which goes first."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from rlkv_service.openai_server.sessions import Session, SessionBook, common_prefix


def tokens(numbers: Sequence[int]) -> array[int]:
    return array("q", numbers)


def paused(
    book: SessionBook, name: str, prompt: Sequence[int], answer: Sequence[int], at_s: float = 0.0
) -> Session:
    session = Session(name, False, 0)
    book.add(session)
    book.pause(session, tokens([*prompt, *answer]), len(prompt), at_s)
    return session


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    length = common_prefix(tokens(a), tokens(b))
    assert a[:length] == b[:length]
    assert length in (len(a), len(b)) or a[length] != b[length]


def test_a_prompt_goes_on_with_the_session_of_which_it_has_most() -> None:
    book = SessionBook()
    short = paused(book, "short", [1, 2], [3])
    long = paused(book, "long", [1, 2, 3, 4], [5, 6])
    other = paused(book, "other", [1, 2, 3, 4], [7])
    assert book.match(tokens([1, 2, 3, 4, 5, 6, 9])) is long
    assert book.match(tokens([1, 2, 3, 4, 7, 9])) is other
    assert book.match(tokens([1, 2, 3, 9])) is short
    # The answer came back in other tokens.
    assert book.match(tokens([1, 2, 9])) is short
    # The same prompt once more, or another, is a new session.
    assert book.match(tokens([1, 2])) is None
    assert book.match(tokens([2, 2, 3])) is None
    book.use(long)
    assert book.match(tokens([1, 2, 3, 4, 5, 6, 9])) is other
    book.remove(other)
    assert book.match(tokens([1, 2, 3, 4, 5, 6, 9])) is short


def test_of_equals_the_one_that_was_used_last_goes_on() -> None:
    book = SessionBook()
    paused(book, "first", [1], [2, 3], at_s=1.0)
    last = paused(book, "last", [1], [4, 5], at_s=2.0)
    assert book.match(tokens([1, 6])) is last


def test_a_session_with_a_name_is_found_by_it_alone() -> None:
    book = SessionBook()
    session = Session("mine", True, 0)
    book.add(session)
    assert not book.is_paused(session)
    book.pause(session, tokens([1, 2]), 1, 0.0)
    assert book.match(tokens([1, 2, 3])) is None
    assert book.find("mine") is session and book.find("yours") is None
    assert (len(book), book.num_paused) == (1, 1)


def test_the_longest_paused_is_first() -> None:
    book = SessionBook()
    first, second = paused(book, "a", [1], [2]), paused(book, "b", [1], [2])
    assert book.longest_paused() is first
    book.use(first)
    book.pause(first, tokens([1, 2, 3]), 2, 1.0)
    assert book.longest_paused() is second
    book.remove(second)
    book.remove(first)
    assert book.longest_paused() is None
    assert len(book) == 0


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), max_size=12))
def test_the_index_forgets_whoever_is_gone(sessions: list[tuple[int, int]]) -> None:
    book = SessionBook()
    numbers = [0, 1, 0, 0, 1, 0, 1, 1, 0, 0]
    added = [
        paused(book, str(i), numbers[:length], numbers[length : length + more])
        for i, (length, more) in enumerate(sessions)
    ]
    for session in added:
        assert book.match(tokens(numbers)) is not None
        book.remove(session)
    assert book.match(tokens(numbers)) is None
    assert not book._by_prompt and not book._prompt_lengths
