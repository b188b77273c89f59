"""Answers to Anthropic's messages, events and whole ones."""

from __future__ import annotations

import msgspec

from rlkv_service.proxy.answer_parts import AnswerParts
from rlkv_service.proxy.answers import Choice, ToolCall, Usage


class _MessagesUsage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Block(msgspec.Struct):
    type: str = ""
    id: str = ""
    name: str = ""
    text: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _BlockDelta(msgspec.Struct):
    type: str = ""
    text: str = ""
    partial_json: str = ""


class _MessagesMessage(msgspec.Struct):
    usage: _MessagesUsage | None = None


class _MessagesEvent(msgspec.Struct):
    type: str = ""
    index: int = 0
    content_block: _Block | None = None
    delta: _BlockDelta | None = None
    message: _MessagesMessage | None = None
    usage: _MessagesUsage | None = None
    content: list[_Block] = []  #: of a whole answer


_messages_event = msgspec.json.Decoder(_MessagesEvent)


class MessagesParts(AnswerParts):
    """Anthropic's messages."""

    def __init__(self) -> None:
        super().__init__()
        self._usage = _MessagesUsage()

    def take(self, data: bytes) -> None:
        """An event, or a message."""
        event = _messages_event.decode(data)
        if event.content_block is not None and event.content_block.type == "tool_use":
            self.call(0, event.index, event.content_block.id, event.content_block.name, "")
        if event.delta is not None:
            if event.delta.text:
                self.text(0, event.delta.text)
            if event.delta.partial_json:
                self.call(0, event.index, "", "", event.delta.partial_json)
        for number, block in enumerate(event.content):
            if block.type == "tool_use":
                self.call(0, number, block.id, block.name, bytes(block.input).decode())
            else:
                self.text(0, block.text)
        for usage in (event.message.usage if event.message else None, event.usage):
            if usage is not None:
                self._add(usage)
        if event.type in ("message_stop", "message"):
            self.texts.setdefault(0, [])
            self.answer.is_whole = self.is_over = True

    def choice(self, index: int) -> Choice:
        """The answer."""
        choice = super().choice(index)
        # A call without arguments has no delta.
        calls = [
            call if call.arguments else ToolCall(call.call_id, call.name, "{}")
            for call in choice.calls
        ]
        return Choice(choice.text, calls)

    def _add(self, new: _MessagesUsage) -> None:
        for name in new.__struct_fields__:
            if getattr(new, name) is not None:
                setattr(self._usage, name, getattr(new, name))
        usage = self._usage
        cached = usage.cache_read_input_tokens
        prompt = (usage.input_tokens or 0) + (cached or 0)
        prompt += usage.cache_creation_input_tokens or 0
        self.answer.usage = Usage(prompt, usage.output_tokens or 0, cached)
