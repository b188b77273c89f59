"""Answers as the next request repeats them."""

from __future__ import annotations

from typing import Any

import msgspec

from rlkv_service.proxy.answers import Choice, ToolCall


class _Function(msgspec.Struct):
    name: str = ""
    arguments: Any = ""


class _Call(msgspec.Struct):
    id: str | None = None
    function: _Function | None = None


class _ChatMessage(msgspec.Struct):
    role: str = ""
    content: Any = None
    tool_calls: list[_Call] | None = None


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    content: Any = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""


_chat_message = msgspec.json.Decoder(_ChatMessage)
_item = msgspec.json.Decoder(_Item)


def answer_of_chat_message(message: bytes) -> Choice | None:
    """The answer in a message of a chat; None: there is none."""
    if (said := _said_by_model(message)) is None:
        return None
    calls = [
        ToolCall(call.id or "", call.function.name, _text(call.function.arguments))
        for call in said.tool_calls or ()
        if call.function is not None
    ]
    return Choice(text_of(said.content), calls)


def answer_of_messages_message(message: bytes) -> Choice | None:
    """The same for Anthropic's messages."""
    if (said := _said_by_model(message)) is None:
        return None
    blocks = said.content if isinstance(said.content, list) else []
    calls = [
        ToolCall(str(block.get("id", "")), str(block.get("name", "")), _text(block.get("input")))
        for block in blocks
        if isinstance(block, dict) and block.get("type") == "tool_use"
    ]
    return Choice(text_of(said.content), calls)


def answer_of_input_item(item: bytes) -> Choice | None:
    """The same for an item of OpenAI's responses: what a model said comes in several of them.

    The first of them counts.
    """
    try:
        said = _item.decode(item)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if said.type == "function_call":
        return Choice("", [ToolCall(said.call_id, said.name, said.arguments)])
    if said.type == "message" and said.role == "assistant":
        return Choice(text_of(said.content))
    return None


def is_thought(item: bytes) -> bool:
    """Whether an item of OpenAI's responses is what a model thought."""
    return b'"reasoning"' in item and _item.decode(item).type == "reasoning"


def text_of(content: Any) -> str:
    """The text in a message's content, which may have parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(part for part in parts if isinstance(part, str))


def _said_by_model(message: bytes) -> _ChatMessage | None:
    try:
        said = _chat_message.decode(message)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return said if said.role == "assistant" else None


def _text(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return msgspec.json.encode(arguments).decode()
