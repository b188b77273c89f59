"""Answers in OpenAI's words, whole and as a stream of events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response

from rlkv_service.openai_server.deltas import CallArguments, CallStart, Delta, Text
from rlkv_service.openai_server.errors import ApiError
from rlkv_service.openai_server.generation import Generation, Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What all responses to one request say. ``chat`` tells the two endpoints apart."""

    model: str
    chat: bool
    session_id: str
    answer_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, deltas: Sequence[Delta], reason: str, usage: Usage) -> dict[str, Any]:
        """The response of a request without a stream."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
        if self.chat:
            choice["message"] = _message(deltas)
        else:
            choice["text"] = _text(deltas)
        return self._head(".completion") | {"choices": [choice], "usage": usage_json(usage)}

    def first_chunk(self) -> dict[str, Any] | None:
        """What a stream begins with."""
        return self._chunk({"role": "assistant", "content": ""}, None) if self.chat else None

    def chunks(self, deltas: Sequence[Delta]) -> list[dict[str, Any]]:
        """What a stream says of these."""
        if not self.chat:
            text = _text(deltas)
            return [self._chunk(text, None)] if text else []
        return [self._chunk(_delta(delta), None) for delta in deltas]

    def last_chunk(self, reason: str) -> dict[str, Any]:
        """Why the answer is over."""
        return self._chunk({} if self.chat else "", reason)

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """What a stream ends with if the client wants the usage."""
        return self._head(".completion.chunk") | {"choices": [], "usage": usage_json(usage)}

    def _chunk(self, said: Any, reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
        choice["delta" if self.chat else "text"] = said
        return self._head(".completion.chunk") | {"choices": [choice], "usage": None}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.answer_id}" if self.chat else f"cmpl-{self.answer_id}",
            "object": f"chat{kind}" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "session_id": self.session_id,
        }


def usage_json(usage: Usage) -> dict[str, Any]:
    """``usage`` of a response."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


async def stream_events(
    answer: Answer, generation: Generation, wants_usage: bool
) -> AsyncIterator[bytes]:
    """The answer as server-sent events; an error ends it without ``[DONE]``."""
    if (first := answer.first_chunk()) is not None:
        yield _event(first)
    try:
        async for deltas in generation.deltas():
            for chunk in answer.chunks(deltas):
                yield _event(chunk)
    except ApiError as error:
        yield _event(error.body())
        return
    assert generation.finished is not None
    yield _event(answer.last_chunk(generation.finished.reason))
    if wants_usage:
        yield _event(answer.usage_chunk(generation.finished.usage))
    yield DONE


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A response of JSON."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def _text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


def _message(deltas: Sequence[Delta]) -> dict[str, Any]:
    calls = [
        {
            "id": start.call_id,
            "type": "function",
            "function": {
                "name": start.name,
                "arguments": "".join(
                    delta.text
                    for delta in deltas
                    if isinstance(delta, CallArguments) and delta.index == start.index
                ),
            },
        }
        for start in deltas
        if isinstance(start, CallStart)
    ]
    text = _text(deltas)
    message: dict[str, Any] = {"role": "assistant", "refusal": None}
    message["content"] = None if calls and not text else text
    if calls:
        message["tool_calls"] = calls
    return message


def _delta(delta: Delta) -> dict[str, Any]:
    if isinstance(delta, Text):
        return {"content": delta.text}
    call: dict[str, Any] = {"index": delta.index}
    if isinstance(delta, CallStart):
        function = {"name": delta.name, "arguments": ""}
        call |= {"id": delta.call_id, "type": "function", "function": function}
    else:
        call["function"] = {"arguments": delta.text}
    return {"tool_calls": [call]}
