"""Answers to OpenAI's chats and completions, chunks and whole ones."""

from __future__ import annotations

from typing import Any

import msgspec

from rlkv_service.proxy.answer_parts import AnswerParts
from rlkv_service.proxy.answers import Usage
from rlkv_service.proxy.repeated_answers import text_of


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: Any = None
    tool_calls: list[_Call] | None = None


class _OpenAIChoice(msgspec.Struct):
    index: int = 0
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _OpenAIUsage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None


class _OpenAIChunk(msgspec.Struct):
    choices: list[_OpenAIChoice] = []
    usage: _OpenAIUsage | None = None
    id: str = ""


_openai_chunk = msgspec.json.Decoder(_OpenAIChunk)


class OpenAIParts(AnswerParts):
    """Chats and completions, chunks and whole answers."""

    def take(self, data: bytes) -> None:
        """A chunk, or an answer."""
        chunk = _openai_chunk.decode(data)
        for choice in chunk.choices:
            if choice.text:
                self.text(choice.index, choice.text)
            said = choice.delta or choice.message
            if said is not None:
                if said.content:
                    self.text(choice.index, text_of(said.content))
                for number, call in enumerate(said.tool_calls or ()):
                    function = call.function or _Function()
                    self.call(
                        choice.index,
                        number if call.index is None else call.index,
                        call.id or "",
                        function.name or "",
                        function.arguments or "",
                    )
            if choice.finish_reason is not None:
                self.texts.setdefault(choice.index, [])
                self.answer.is_whole = True
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            self.answer.usage = Usage(
                chunk.usage.prompt_tokens,
                chunk.usage.completion_tokens or 0,
                details.cached_tokens if details is not None else None,
            )
