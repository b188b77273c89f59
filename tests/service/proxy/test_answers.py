"""What an answer says, in whatever pieces it comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_service.proxy.answer_readers import AnswerReader
from rlkv_service.proxy.answers import Answer, Choice, ToolCall, Usage
from rlkv_service.proxy.requests import Kind


def events(*contents: Any, names: bool = False, done: bool = True) -> bytes:
    lines = []
    for content in contents:
        name = f"event: {content['type']}\r\n" if names else ""
        lines.append(f"{name}data: {json.dumps(content)}\n\n")
    return "".join(lines).encode() + (b"data: [DONE]\n\n" if done else b"")


def chunk(delta: Any, reason: str | None = None, index: int = 0) -> Any:
    return {"id": "c", "choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


def call(index: int, arguments: str, **more: Any) -> Any:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **more}}]}


USAGE = {
    "prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5},
}  # fmt: skip
CALLS = [ToolCall("a", "search", '{"q": 1}'), ToolCall("b", "shell", "{}")]
CHAT = events(
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Let me "}),
    chunk({"content": "look…"}),
    chunk(
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "search", "arguments": ""}}]}
    ),
    chunk(call(0, '{"q"')),
    chunk(call(0, ": 1}")),
    chunk(
        {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "shell", "arguments": "{}"}}]}
    ),
    chunk({}, "tool_calls"),
    {"id": "c", "choices": [], "usage": USAGE},
)
CHAT_WHOLE = json.dumps(
    {
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": "Let me look…",
                    "tool_calls": [
                        {"id": "a", "function": {"name": "search", "arguments": '{"q": 1}'}},
                        {"id": "b", "function": {"name": "shell", "arguments": "{}"}},
                    ],
                },
            }
        ],
        "usage": USAGE,
    }
).encode()
MESSAGES = events(
    {"type": "message_start",
     "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 5,
                           "cache_creation_input_tokens": 1, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Let me "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "look…"}},
    {"type": "content_block_start", "index": 1,
     "content_block": {"type": "tool_use", "id": "a", "name": "search", "input": {}}},
    {"type": "content_block_delta", "index": 1,
     "delta": {"type": "input_json_delta", "partial_json": '{"q": '}},
    {"type": "content_block_delta", "index": 1,
     "delta": {"type": "input_json_delta", "partial_json": "1}"}},
    {"type": "content_block_start", "index": 2,
     "content_block": {"type": "tool_use", "id": "b", "name": "shell", "input": {}}},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
    names=True, done=False,
)  # fmt: skip
MESSAGES_WHOLE = json.dumps(
    {
        "type": "message",
        "content": [
            {"type": "text", "text": "Let me look…"},
            {"type": "tool_use", "id": "a", "name": "search", "input": {"q": 1}},
            {"type": "tool_use", "id": "b", "name": "shell", "input": {}},
        ],
        "usage": {"input_tokens": 4, "cache_read_input_tokens": 5, "output_tokens": 4},
    }
).encode()
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "Let me look…"}]},
        {"type": "function_call", "call_id": "a", "name": "search", "arguments": '{"q": 1}'},
        {"type": "function_call", "call_id": "b", "name": "shell", "arguments": "{}"},
    ],
    "usage": {"input_tokens": 9, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 5}},
}
RESPONSES = events(
    {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
    {"type": "response.output_text.delta", "delta": "Let me "},
    {"type": "response.completed", "response": RESPONSE},
    names=True,
    done=False,
)


def read(kind: Kind, pieces: list[bytes], streams: bool) -> Answer | None:
    reader = AnswerReader(kind, streams)
    for piece in pieces:
        reader.feed(piece)
    return reader.answer()


@pytest.mark.parametrize(
    ("kind", "body", "streams"),
    [
        (Kind.CHAT, CHAT, True), (Kind.CHAT, CHAT_WHOLE, False),
        (Kind.MESSAGES, MESSAGES, True), (Kind.MESSAGES, MESSAGES_WHOLE, False),
        (Kind.RESPONSES, RESPONSES, True),
        (Kind.RESPONSES, json.dumps(RESPONSE).encode(), False),
    ],
)  # fmt: skip
@given(data=st.data())
def test_four_apis_say_the_same(kind: Kind, body: bytes, streams: bool, data: Any) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    answer = read(kind, pieces, streams)
    assert answer is not None and answer.is_whole
    (choice,) = answer.choices
    assert choice.text == "Let me look…"
    assert [(c.call_id, c.name, json.loads(c.arguments)) for c in choice.calls] == [
        (c.call_id, c.name, json.loads(c.arguments)) for c in CALLS
    ]
    assert answer.usage == Usage(9, 4, 5)
    assert answer.tool == "search"
    assert answer.response_id == ("resp_1" if kind is Kind.RESPONSES else "")


def test_marks_of_a_stream_are_those_of_the_message_that_repeats_it() -> None:
    streamed, whole = (
        read(Kind.MESSAGES, [MESSAGES], True),
        read(Kind.MESSAGES, [MESSAGES_WHOLE], False),
    )
    assert streamed is not None and whole is not None
    assert list(streamed.choices[0].marks()) == list(whole.choices[0].marks())


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        ('Hm. <tool_call>\n{"name": "search", "arguments": {}}\n</tool_call>', "search"),
        ('<tool_call>{"name":"shell"', "shell"),
        ("<tool_call>\n<function=grep>\n", "grep"),
        ("<tool_call>\nwhat?", "human"),
        ('{"name": "search"}', "human"),
        ("", "human"),
    ],
)
def test_a_call_that_stayed_text(text: str, tool: str) -> None:
    halves = [text[: len(text) // 2], text[len(text) // 2 :]]
    stream = [{"choices": [{"index": 0, "text": half, "finish_reason": None}]} for half in halves]
    last = {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    answer = read(Kind.COMPLETIONS, [events(*stream, last)], True)
    assert answer is not None and answer.tool == tool and answer.choices == [Choice(text, [])]


def test_answers_to_several_are_kept_apart() -> None:
    body = events(
        chunk({"content": "a"}, index=0), chunk({"content": "b"}, index=1), chunk({}, "stop", 1),
        chunk({"content": "c"}, index=0), chunk({}, "stop", 0),
    )  # fmt: skip
    answer = read(Kind.CHAT, [body], True)
    assert answer is not None and [choice.text for choice in answer.choices] == ["ac", "b"]


@pytest.mark.parametrize(
    ("body", "streams"),
    [
        (b"<html>", False), (b'{"choices": 7}', False), (b"data: {\n\n", True),
        (b"data: " + b"[" * 100_000 + b"\n\n", True), (b'data: {"id": "\xff"}\n\n', True),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_none(body: bytes, streams: bool) -> None:
    assert read(Kind.CHAT, [body], streams) is None


def test_an_answer_that_stops_early_is_not_whole() -> None:
    answer = read(Kind.CHAT, [CHAT[: len(CHAT) // 2]], True)
    assert answer is not None and not answer.is_whole
    error = events({"error": {"message": "no"}}, done=False)
    answer = read(Kind.CHAT, [error], True)
    assert answer is not None and not answer.is_whole


def test_long_answers_are_not_kept() -> None:
    reader = AnswerReader(Kind.CHAT, False)
    for _ in range(20):
        reader.feed(bytes(2**20))
    assert reader.answer() is None and not reader._whole
    reader = AnswerReader(Kind.CHAT, True)
    for _ in range(20):
        reader.feed(b"data: " + bytes(2**20))
    assert reader.answer() is None and len(reader._tail) <= 2**25
