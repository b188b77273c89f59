from __future__ import annotations

import pytest

from rlkv_service.adapters.vllm.tool_names import HUMAN, UNREADABLE, ToolNames, name_in
from rlkv_service.openai_server import turn


class Bytes:
    """A tokenizer with a token for each byte."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: list[int]) -> str:
        return bytes(token_ids).decode()


@pytest.fixture
def names() -> ToolNames:
    names = ToolNames(Bytes, "<tool_call>")
    assert names.wait(10.0)
    return names


def test_a_human_is_called_as_elsewhere() -> None:
    assert HUMAN == turn.HUMAN


@pytest.mark.parametrize(
    ("answer", "tool"),
    [
        ("", HUMAN),
        ("The answer is 4.", HUMAN),
        ('<tool_call>\n{"name": "search", "arguments": {"q": "x"}}\n</tool_call>', "search"),
        ('Let me see. <tool_call>{"name":"read_file"', "read_file"),
        ('<tool_call>{"name": "a"}</tool_call><tool_call>{"name": "b"}</tool_call>', "b"),
        ('<tool_call>{"name": "quo\\"te"}', 'quo"te'),
        ("<tool_call>call the tool", UNREADABLE),
        ('<tool_call>{"name": "\\ud800"}', "?"),
        ('<tool_call>{"name": ""}', UNREADABLE),
        ("<tool_call>", UNREADABLE),
    ],
)
def test_the_last_call_has_a_name(names: ToolNames, answer: str, tool: str) -> None:
    assert names.of(list(answer.encode())) == tool


def test_names_are_not_too_long() -> None:
    assert len(name_in('{"name": "' + "x" * 1000 + '"}')) == 256


def test_without_a_tokenizer_everybody_waits_for_a_human() -> None:
    def fails() -> Bytes:
        raise OSError("there is none")

    call = list(b'<tool_call>{"name": "search"}')
    broken = ToolNames(fails, "<tool_call>")
    assert not broken.wait(10.0) and "there is none" in broken.error
    for names in (broken, ToolNames(None, "<tool_call>")):
        assert names.of(call) == HUMAN
