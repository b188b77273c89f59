"""From tokens to text and calls, however the text is cut."""

from __future__ import annotations

import itertools
import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_service.openai_server.deltas import CallArguments, CallStart, Delta, Text
from rlkv_service.openai_server.detokenizer import Detokenizer
from rlkv_service.openai_server.stop_strings import StopStrings
from rlkv_service.openai_server.tool_call_formats import (
    HERMES,
    LLAMA3,
    ToolCallFormat,
    find_format,
)
from rlkv_service.openai_server.tool_call_parser import ToolCallParser
from rlkv_service.openai_server.turn import Turn
from tests.service.openai_server.scripted_model import TOKENIZER, encode

Calls = list[tuple[str, str]]
SEARCH = '{"name": "search", "arguments": {"query": "a \\"b\\" } </tool_call> {"}}'
ARGUMENTS = '{"query": "a \\"b\\" } </tool_call> {"}'


def pieces(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def read(deltas: list[Delta]) -> tuple[str, Calls]:
    text = ""
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        if isinstance(delta, Text):
            text += delta.text
        elif isinstance(delta, CallStart):
            assert delta.index == len(calls)
            calls[delta.index] = [delta.name, ""]
        else:
            assert isinstance(delta, CallArguments)
            calls[delta.index][1] += delta.text
    return text, [(name, arguments) for name, arguments in calls.values()]


def parse(form: ToolCallFormat, parts: list[str]) -> tuple[str, Calls, list[str]]:
    parser = ToolCallParser(form)
    deltas = [delta for part in parts for delta in parser.push(part)] + parser.flush()
    return *read(deltas), parser.called


def test_characters_come_whole() -> None:
    text = "naïve 🦙 日本 end"
    detokenizer = Detokenizer(TOKENIZER, encode("before"))
    parts = [detokenizer.push(token) for token in encode(text)]
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


def test_bytes_that_are_no_text_do_not_hold_it_up() -> None:
    (broken,) = [t for t in encode("é") if TOKENIZER.decode([t]) == "\ufffd"][:1]
    detokenizer = Detokenizer(TOKENIZER, [])
    shown = "".join(detokenizer.push(broken) for _ in range(100))
    assert 90 <= len(shown) <= 100
    shown += "".join(map(detokenizer.push, encode(" on"))) + detokenizer.flush()
    assert shown.endswith("\ufffd on")


def test_half_a_character_at_the_end_is_shown_as_one() -> None:
    detokenizer = Detokenizer(TOKENIZER, [])
    assert detokenizer.push(encode("é")[0]) == ""
    assert detokenizer.flush() == "\ufffd"


@given(st.lists(st.integers(0, 100), max_size=8))
def test_text_ends_at_the_first_stop_string(cuts: list[int]) -> None:
    stop = StopStrings(["END", "EN!", "never", ""])
    shown = ""
    for part in pieces("An ENEN EEND, ENDed", cuts):
        text, hit = stop.push(part)
        shown += text
        if hit:
            break
    else:
        raise AssertionError("not found")
    assert shown == "An ENEN E"


@given(st.lists(st.integers(0, 100), max_size=8))
def test_the_beginning_of_a_stop_string_is_text_after_all(cuts: list[int]) -> None:
    stop = StopStrings(["ENDE"])
    parts = [stop.push(part) for part in pieces("THE END EN", cuts)]
    assert not any(hit for _, hit in parts)
    assert "".join(text for text, _ in parts) + stop.flush() == "THE END EN"


HERMES_ANSWERS = {
    "Only text, 2 < 3 {}": ("Only text, 2 < 3 {}", []),
    f"<tool_call>\n{SEARCH}\n</tool_call>": ("", [("search", ARGUMENTS)]),
    f"Let me see.\n\n<tool_call>{SEARCH}</tool_call>\n": ("Let me see.", [("search", ARGUMENTS)]),
    f"<tool_call>\n{SEARCH}\n</tool_call>\n<tool_call>\n{SEARCH}\n</tool_call>": (
        "",
        [("search", ARGUMENTS)] * 2,
    ),
    # Another order, other keys, arguments as text: known only when it is over.
    '<tool_call>{"arguments": {"a": [1, {}]}, "name": "f"}</tool_call>': (
        "",
        [("f", '{"a": [1, {}]}')],
    ),
    '<tool_call>{"name": "f", "id": 3, "parameters": {"a": 1}}</tool_call>': (
        "",
        [("f", '{"a": 1}')],
    ),
    '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>': ("", [("f", '{"a": 1}')]),
    # A bracket too few, one too many, no end.
    '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>.': (".", [("f", '{"a": 1}')]),
    '<tool_call>{"name": "f", "arguments": {"a": 1}}}\n</tool_call>.': (".", [("f", '{"a": 1}')]),
    '<tool_call>{"name": "f", "arguments": {"a": 1}}': ("", [("f", '{"a": 1}')]),
    '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>': ("", [("?", "{}")]),
    # No calls.
    "<tool_call>\nsearch(1)\n</tool_call> so": ("<tool_call>\nsearch(1)\n</tool_call> so", []),
    '<tool_call>{"name": 3}</tool_call>': ('<tool_call>{"name": 3}</tool_call>', []),
    '<tool_call>{"name": "\\q", "arguments": {}}': (
        '<tool_call>{"name": "\\q", "arguments": {}}',
        [],
    ),
    '<tool_call>{"nam': ('<tool_call>{"nam', []),
    "a <tool_c": ("a <tool_c", []),
}
LLAMA3_ANSWERS = {
    "Only text.": ("Only text.", []),
    "  two blanks {": ("  two blanks {", []),
    '{"name": "f", "parameters": {"a": 1}}': ("", [("f", '{"a": 1}')]),
    ' {"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}': (
        "",
        [("f", '{"a": 1}'), ("g", "{}")],
    ),
    '{"answer": 42} it is': ('{"answer": 42} it is', []),
}


@pytest.mark.parametrize(
    ("form", "said", "text", "calls"),
    [(HERMES, said, *read) for said, read in HERMES_ANSWERS.items()]
    + [(LLAMA3, said, *read) for said, read in LLAMA3_ANSWERS.items()],
)
def test_tool_calls_are_found_however_they_come(
    form: ToolCallFormat, said: str, text: str, calls: Calls
) -> None:
    expected = (text, calls, [name for name, _ in calls])
    assert parse(form, [said]) == expected
    assert parse(form, list(said)) == expected
    for cut in range(len(said)):
        assert parse(form, [said[:cut], said[cut:]]) == expected


def test_arguments_are_passed_on_as_they_come() -> None:
    parser = ToolCallParser(HERMES)
    assert parser.push('<tool_call>{"name": "write", "arguments": ') == []
    start, first = parser.push('{"text": "lo')
    assert isinstance(start, CallStart) and start.name == "write"
    assert first == CallArguments(0, '{"text": "lo')
    assert parser.push("ng") == [CallArguments(0, "ng")]
    assert parser.called == []
    # Cut in the middle of a call, an answer has called nothing.
    assert (parser.flush(), parser.called) == ([], [])


def test_arguments_that_end_too_soon_still_call() -> None:
    said = '<tool_call>{"name": "f", "arguments": {"a": </tool_call>'
    assert parse(HERMES, list(said)) == ("", [("f", '{"a": ')], ["f"])


def test_the_format_is_the_templates_own() -> None:
    assert find_format(TOKENIZER.chat_template) == HERMES
    llama = '{{ tools }} Respond {"name": function name, "parameters": dictionary}'
    assert find_format(llama) == LLAMA3
    assert find_format("{{ messages }}") is None
    assert find_format("{{ tools | tojson }}") is None
    assert find_format(None) is None


@pytest.mark.parametrize("form", [HERMES, LLAMA3])
def test_a_call_may_be_begun_for_the_model(form: ToolCallFormat) -> None:
    rest = '{"a": 1}}'
    assert parse(form, [form.beginning("f"), rest])[1:] == ([("f", '{"a": 1}')], ["f"])
    rest = json.dumps({form.arguments_key: {}})[1:]
    assert parse(form, [form.beginning(None), f'g", {rest}'])[1:] == ([("g", "{}")], ["g"])


def run_turn(turn: Turn, said: str, end: Literal["stop", "length"]) -> tuple[str, Calls]:
    deltas: list[Delta] = []
    tokens = encode(said)
    for i, token in enumerate(tokens):
        last = end == "length" and i == len(tokens) - 1
        deltas += turn.push(token, "length" if last else None)
        if turn.finish_reason is not None:
            return read(deltas)
    assert end == "stop"
    return read(deltas + turn.push(TOKENIZER.eos_token_id, "stop"))


def test_a_turn_ends_by_itself_at_a_stop_string_or_at_its_length() -> None:
    turn = Turn(TOKENIZER, [])
    assert run_turn(turn, "It is so.", "stop") == ("It is so.", [])
    assert (turn.finish_reason, turn.tool, turn.num_tokens) == (
        "stop",
        "human",
        1 + len(encode("It is so.")),
    )
    turn = Turn(TOKENIZER, [], stop=["is"])
    assert run_turn(turn, "It is so.", "length") == ("It ", [])
    assert turn.finish_reason == "stop"
    turn = Turn(TOKENIZER, [], stop=["so..."])
    assert run_turn(turn, "It is so.", "length") == ("It is so.", [])
    assert turn.finish_reason == "length"


def test_a_turn_that_calls_waits_for_the_tool() -> None:
    calls = (
        f"<tool_call>{SEARCH}</tool_call>" + '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
    )
    turn = Turn(TOKENIZER, [], parser=ToolCallParser(HERMES))
    assert run_turn(turn, calls, "stop") == ("", [("search", ARGUMENTS), ("g", "{}")])
    assert (turn.finish_reason, turn.tool) == ("tool_calls", "search")
    turn = Turn(TOKENIZER, [], parser=ToolCallParser(HERMES), one_call=True)
    assert run_turn(turn, calls, "length") == ("", [("search", ARGUMENTS)])
    assert (turn.finish_reason, turn.tool) == ("tool_calls", "search")
    turn = Turn(TOKENIZER, [], parser=ToolCallParser(HERMES))
    run_turn(turn, calls[:-20], "length")
    assert (turn.finish_reason, turn.tool) == ("length", "human")
