"""Conversations are known again, never taken for each other, and take bounded memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_service.proxy.answers import Answer, Choice, ToolCall
from rlkv_service.proxy.requests import Kind, read_request
from rlkv_service.proxy.session_book import Session, SessionBook

Message = dict[str, Any]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def conversation(messages: list[Message], kind: Kind = Kind.CHAT, **more: Any) -> Any:
    body = json.dumps({"model": "m", "messages": messages, **more}).encode()
    return read_request(kind, {}, body).conversation


def prompt(text: str) -> Any:
    body = json.dumps({"model": "m", "prompt": text}).encode()
    return read_request(Kind.COMPLETIONS, {}, body).conversation


def said(text: str = "", *calls: ToolCall) -> Answer:
    return Answer([Choice(text, calls)], is_whole=True)


@dataclass
class Book:
    """A book, and what ended in it."""

    max_sessions: int = 100
    ended: list[tuple[str, str]] = field(default_factory=list)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.book = SessionBook(
            self.max_sessions, lambda session, why: self.ended.append((session.name, why))
        )

    def ask(self, conversation: Any) -> Session:
        """A request comes in."""
        self.now_s += 1.0
        session = self.book.match(conversation)
        if session is None:
            return self.book.add(None, 0, self.now_s, 0.0)
        self.book.use(session, self.now_s)
        return session

    def answer(self, session: Session, conversation: Any, answer: Answer) -> None:
        session.paused_at_s = self.now_s
        self.book.pause(session, conversation.continued(answer), self.now_s)
        self.book.check_integrity()

    def turn(self, conversation: Any, answer: Answer) -> Session:
        session = self.ask(conversation)
        self.answer(session, conversation, answer)
        return session


def assistant(answer: Answer) -> Message:
    (choice,) = answer.choices
    message: Message = {"role": "assistant", "content": choice.text}
    if choice.calls:
        message["tool_calls"] = [
            {"id": c.call_id, "type": "function",
             "function": {"name": c.name, "arguments": c.arguments}}
            for c in choice.calls
        ]  # fmt: skip
    return message


SEARCH = ToolCall("call_1", "search", '{"q": "x", "n": 1}')


@pytest.mark.parametrize(
    ("answer", "repeated"),
    [
        (said("Hello."), {"role": "assistant", "content": "Hello."}),
        (said("Hello.\n"), {"role": "assistant", "content": " Hello.", "refusal": None}),
        (said("Hello."), {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]}),
        (said("<think>hm</think>\nHi"), {"role": "assistant", "content": "Hi"}),
        (said("<think>hm</think>\nHi"), {"role": "assistant", "content": "<think>hm</think>\nHi"}),
        (said("", SEARCH), assistant(said("", SEARCH))),
        (said("I look.", SEARCH), assistant(said("", SEARCH)) | {"content": None}),
        (
            said("", SEARCH),
            assistant(said("", ToolCall("call_1", "search", '{"n":1,"q":"x"}'))),
        ),
    ],
)
def test_an_answer_is_known_however_it_is_repeated(answer: Answer, repeated: Message) -> None:
    book = Book()
    first = book.turn(conversation([user("hi")]), answer)
    again = book.turn(conversation([user("hi"), repeated, user("on")]), said("yes"))
    assert again is first and len(book.book) == 1


@pytest.mark.parametrize(
    "repeated",
    [
        {"role": "assistant", "content": "Goodbye."},
        {"role": "user", "content": "Hello."},
        assistant(said("Hello.", SEARCH)),
    ],
)
def test_another_answer_is_another_session(repeated: Message) -> None:
    book = Book()
    first = book.turn(conversation([user("hi")]), said("Hello."))
    other = book.turn(conversation([user("hi"), repeated, user("on")]), said("yes"))
    assert other is not first and len(book.book) == 2


def test_calls_with_one_id_are_told_apart_by_what_they_say() -> None:
    book = Book()
    answers = [said("", ToolCall("0", "search", json.dumps({"q": q}))) for q in "ab"]
    sessions = [book.turn(conversation([user("hi")]), answer) for answer in answers]
    for session, answer in reversed(list(zip(sessions, answers, strict=True))):
        messages = [user("hi"), assistant(answer), {"role": "tool", "content": "found"}]
        assert book.turn(conversation(messages), said("so")) is session


def test_what_else_has_to_be_the_same() -> None:
    book = Book()
    first = [user("hi")]
    then = [*first, assistant(said("Hello.")), user("on")]
    several: tuple[dict[str, Any], ...] = ({}, {"model": "other"})
    for options in several:
        book.turn(conversation(first, **options), said("Hello."))
    assert len(book.book) == 2
    messages = Kind.MESSAGES
    book.turn(conversation(first, messages, system="You are."), said("Hello."))
    book.turn(conversation(then, messages, system="You are not."), said("Hello."))
    assert len(book.book) == 4
    book.turn(conversation(then, messages, system="You are."), said("Hello."))
    assert len(book.book) == 4


def test_marks_that_wander_do_not_count() -> None:
    book = Book()
    mark = {"cache_control": {"type": "ephemeral"}}
    text = {"type": "text", "text": "hi"}
    first = book.turn(
        conversation([{"role": "user", "content": [text | mark]}], Kind.MESSAGES), said("Hello.")
    )
    messages = [
        {"role": "user", "content": [text]},
        assistant(said("Hello.")),
        {"role": "user", "content": [text | mark]},
    ]
    assert book.turn(conversation(messages, Kind.MESSAGES), said("on")) is first


def test_a_session_is_gone_on_with_once() -> None:
    book = Book()
    first, then = [user("hi")], [user("hi"), assistant(said("Hello.")), user("on")]
    one = book.turn(conversation(first), said("Hello."))
    assert book.ask(conversation(then)) is one
    assert book.ask(conversation(then)) is not one
    book.book.check_integrity()


def test_a_request_that_came_to_nothing_may_be_made_again() -> None:
    book = Book()
    first, then = [user("hi")], [user("hi"), assistant(said("Hello.")), user("on")]
    one = book.turn(conversation(first), said("Hello."))
    for _ in range(3):
        assert book.ask(conversation(then)) is one
        book.book.restore(one, book.now_s)
        book.book.check_integrity()
    lost = book.ask(conversation(first))
    book.book.restore(lost, book.now_s)
    assert len(book.book) == 1 and not book.ended


def test_named_sessions_are_found_by_name_alone() -> None:
    book = Book()
    named = book.book.add("mine", 0, 0.0, 0.0)
    book.answer(named, conversation([user("hi")]), said("Hello."))
    then = [user("hi"), assistant(said("Hello.")), user("on")]
    assert book.book.match(conversation(then)) is None
    assert book.book.find("mine") is named
    # Two requests at a time: it pauses when both are answered.
    book.book.use(named, 1.0)
    book.book.use(named, 1.0)
    book.answer(named, conversation(then), said("Hello."))
    assert book.book.num_paused == 0
    book.answer(named, conversation(then), said("Hello."))
    assert book.book.num_paused == 1


def test_idle_sessions_end_and_the_oldest_makes_room() -> None:
    book = Book(max_sessions=3)
    for number in range(5):
        book.turn(conversation([user(str(number))]), said("Hello."))
    assert len(book.book) == 3 and [why for _, why in book.ended] == ["evicted"] * 2
    book.book.end_idle(4.0)
    assert len(book.book) == 1 and [why for _, why in book.ended][2:] == ["idle"] * 2
    running = [book.ask(conversation([user(str(number))])) for number in range(4)]
    assert len(book.book) == 4  # those that are being answered stay
    for session in running:
        book.answer(session, conversation([user("x")]), said("Hello."))
    assert len(book.book) == 3


def test_text_goes_on_where_prompt_and_answer_end() -> None:
    book = Book()
    long = "word " * 500
    for start in ("", long, "é" * 700, "x" * 512):
        one = book.turn(prompt(start + "A"), said(" says b"))
        assert book.turn(prompt(start + "A says"), said("!")) is not one  # not all of it
        assert book.turn(prompt(start + "A says boo"), said("!")) is one
    assert prompt("x").continued(Answer([Choice("a"), Choice("b")])) == []
    body = json.dumps({"prompt": [1, 2, 3]}).encode()
    assert read_request(Kind.COMPLETIONS, {}, body).conversation is None


TEXTS = st.sampled_from(["", "a", "b", " a", "a</think>b", "hello"])
CALLS = st.builds(
    ToolCall,
    st.sampled_from(["", "0", "1"]),
    st.sampled_from(["f", "g"]),
    st.sampled_from(["{}", '{"x":1}']),
)
ANSWERS = st.builds(lambda text, calls: said(text, *calls), TEXTS, st.lists(CALLS, max_size=2))


@given(
    st.lists(
        st.tuples(st.integers(0, 5), TEXTS, ANSWERS, st.sampled_from(["answer", "fail", "hold"])),
        max_size=40,
    ),
    st.integers(1, 6),
)
def test_conversations_are_never_joined(
    steps: list[tuple[int, str, Answer, str]], max_sessions: int
) -> None:
    """Each conversation says what it likes, often what another says; the book is not told which."""
    book = Book(max_sessions)
    told: dict[int, list[Message]] = {}  # by conversation
    known: dict[str, list[Message]] = {}  # by session: what was said in it, with the last answer
    held = 0
    for number, text, answer, outcome in steps:
        messages = [*told.get(number, []), user(text)]
        asked = conversation(messages)
        session = book.ask(asked)
        before = known.get(session.name, [])
        if before:
            assert messages[: len(before) - 1] == before[:-1]
            # Its own answer stands there, or one that nobody could tell from it.
            mine, theirs = before[-1], messages[len(before) - 1]
            assert theirs["role"] == "assistant"
            assert bool(mine.get("tool_calls")) == bool(theirs.get("tool_calls"))
            if mine.get("tool_calls"):
                assert mine["tool_calls"] == theirs["tool_calls"]
            else:
                said_by = [
                    message["content"].rpartition("</think>")[2].strip()
                    for message in (mine, theirs)
                ]
                assert said_by[0] == said_by[1]
        if outcome == "answer":
            book.answer(session, asked, answer)
            told[number] = known[session.name] = [*messages, assistant(answer)]
        elif outcome == "fail":
            book.book.restore(session, book.now_s)
        else:
            held += 1
        book.book.check_integrity()
        assert len(book.book) <= max_sessions + held
        assert book.book.num_prefixes <= max_sessions
