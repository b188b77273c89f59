"""From the messages of a chat to the text that the model continues."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from rlkv_service.openai_server.errors import ApiError
from rlkv_service.openai_server.protocol import ChatRequest, Message, NamedTool
from rlkv_service.openai_server.tool_call_formats import ToolCallFormat, find_format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


#: What templates, which are programs of their own, fail with on messages they do not expect.
_UNTAKEN = (TemplateError, TypeError, ValueError, AttributeError, LookupError, RecursionError)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A chat as text."""

    text: str
    #: The end of ``text``, where it is the beginning of the answer already.
    beginning: str
    #: How calls are written in the answer; None: none is looked for.
    calls: ToolCallFormat | None


def chat_prompt(tokenizer: PreTrainedTokenizerBase, request: ChatRequest) -> ChatPrompt:
    """Applies the tokenizer's chat template.

    A tool that has to be called is called by the prompt: the model continues behind its name, or
    with a name. ``tool_choice`` of "none" leaves the tools in the prompt, whose KV stays of use.

    Raises:
        ApiError: the template does not take this chat.
    """
    if tokenizer.chat_template is None:
        raise ApiError(400, "this model has no chat template: use /v1/completions")
    tools: list[Any] | None = [
        tool.model_dump(exclude_none=True) for tool in request.tools or []
    ] or None
    template = tokenizer.get_chat_template(None, tools)
    calls = find_format(template) if tools else None
    if tools and calls is None:
        raise ApiError(
            400, "the chat template of this model has no tools of a known format", param="tools"
        )
    choice = request.tool_choice
    forced = isinstance(choice, NamedTool) or choice == "required"
    if forced:
        _check_choice(request)
    try:
        text = tokenizer.apply_chat_template(
            [_message(m, i) for i, m in enumerate(request.messages)],
            tools=tools,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except _UNTAKEN as error:
        reason = f"the chat template does not take these messages: {error}"
        raise ApiError(400, reason, param="messages") from error
    assert isinstance(text, str)
    if choice == "none" or calls is None:
        return ChatPrompt(text, "", None)
    name = choice.function.name if isinstance(choice, NamedTool) else None
    beginning = calls.beginning(name) if forced else ""
    return ChatPrompt(text + beginning, beginning, calls)


def _check_choice(request: ChatRequest) -> None:
    names = [tool.function.name for tool in request.tools or []]
    choice = request.tool_choice
    if not names:
        raise ApiError(400, "tool_choice needs tools", param="tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        reason = f"tool_choice names {choice.function.name!r}, tools has {', '.join(names)}"
        raise ApiError(400, reason, param="tool_choice")


def _message(message: Message, index: int) -> dict[str, Any]:
    content = message.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    rendered: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        # Templates add to it: none of them expects that there is none.
        "content": content or "",
    }
    if message.name is not None:
        rendered["name"] = message.name
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        rendered["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": _arguments(call.function.arguments),
                },
            }
            for call in message.tool_calls
        ]
    elif message.role == "assistant" and content is None:
        reason = "an assistant's message has content or tool_calls"
        raise ApiError(400, reason, param=f"messages.{index}.content")
    return rendered


def _arguments(text: str) -> Any:
    # Templates write them as JSON themselves. What is none stays text.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
