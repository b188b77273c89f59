"""Answers to OpenAI's responses, events and whole ones."""

from __future__ import annotations

from typing import Any

import msgspec

from rlkv_service.proxy.answer_parts import AnswerParts
from rlkv_service.proxy.answers import Usage
from rlkv_service.proxy.repeated_answers import text_of


class _Output(msgspec.Struct):
    type: str = ""
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    content: Any = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _ResponsesUsage(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _InputDetails | None = None


class _Response(msgspec.Struct):
    id: str = ""
    status: str = ""
    output: list[_Output] = []
    usage: _ResponsesUsage | None = None


class _ResponsesEvent(msgspec.Struct):
    type: str = ""
    response: _Response | None = None


_responses_event = msgspec.json.Decoder(_ResponsesEvent)
_response = msgspec.json.Decoder(_Response)


class ResponsesParts(AnswerParts):
    """OpenAI's responses: a stream's last event repeats the whole."""

    def take(self, data: bytes) -> None:
        """An event, or a response."""
        event = _responses_event.decode(data)
        if not event.type:
            self._take_whole(_response.decode(data))
        elif event.response is not None and event.type in (
            "response.completed", "response.incomplete",
        ):  # fmt: skip
            self._take_whole(event.response)
            self.is_over = True

    def _take_whole(self, response: _Response) -> None:
        self.texts.setdefault(0, [])
        for number, output in enumerate(response.output):
            if output.type == "function_call":
                self.call(0, number, output.call_id, output.name, output.arguments)
            elif output.type == "message":
                self.text(0, text_of(output.content))
        self.answer.is_whole = response.status in ("completed", "incomplete", "")
        self.answer.response_id = response.id
        if response.usage is not None:
            details = response.usage.input_tokens_details
            self.answer.usage = Usage(
                response.usage.input_tokens,
                response.usage.output_tokens,
                details.cached_tokens if details is not None else None,
            )
