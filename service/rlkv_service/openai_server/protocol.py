"""What clients send: the part of OpenAI's protocol that is served here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlkv_service.openai_server.errors import ApiError

#: Fields that would change the answer in a way that is not built, and the values at which they do
#: not. Fields that are unknown here are ignored.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "top_logprobs": (None, 0),
}
#: What a client may call its session.
SessionId = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")]


class _Lenient(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class StreamOptions(_Lenient):
    """Options of a stream."""

    include_usage: bool = False


class GenerationRequest(BaseModel):
    """Fields of both endpoints."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    session_id: SessionId | None = None

    @property
    def stop_strings(self) -> list[str]:
        """``stop`` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends in the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def refuse_unsupported(self) -> None:
        """Raises ``ApiError`` for a field that asks for what is not built."""
        for name, value in (self.model_extra or {}).items():
            neutral = _NEUTRAL.get(name)
            if neutral is not None and value not in neutral:
                allowed = " or ".join(repr(v) for v in neutral if v is not None)
                reason = f"it may only be {allowed}" if allowed else "it is not supported"
                raise ApiError(
                    400, f"{name} is {value!r}, {reason}", param=name, code="unsupported_value"
                )


class CompletionRequest(GenerationRequest):
    """Body of ``/v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]]


class TextPart(_Lenient):
    """A part of a message."""

    type: Literal["text"]
    text: str


class FunctionCall(_Lenient):
    """What an assistant has called."""

    name: str
    arguments: str


class ToolCall(_Lenient):
    """A call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Lenient):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(_Lenient):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Lenient):
    """A tool that may be called."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Lenient):
    """A function by name."""

    name: str


class NamedTool(_Lenient):
    """The one tool to call."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(GenerationRequest):
    """Body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
