"""Chats with the scripted model."""

from __future__ import annotations

from typing import Any

from tests.service.openai_server.scripted_model import TOKENIZER

Messages = list[dict[str, Any]]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"It does {name}.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
        },
    }
    for name in ("search", "shell")
]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def chat(client: Any, messages: Messages, **options: Any) -> Any:
    """The completion of a chat."""
    options = {"model": "scripted", "temperature": 0, **options}
    return client.chat.completions.create(messages=messages, **options)


def streaming(client: Any, messages: Messages, **options: Any) -> Any:
    """A stream, of which nothing has been read."""
    return chat(client, messages, stream=True, **options)


def answered(messages: Messages, completion: Any) -> Messages:
    """The messages with the answer behind them."""
    return [*messages, completion.choices[0].message.model_dump(exclude_none=True)]


def tool_result(completion: Any, text: str) -> dict[str, Any]:
    """The message of the tool that was called."""
    (call,) = completion.choices[0].message.tool_calls
    return {"role": "tool", "tool_call_id": call.id, "content": text}


def text_of(completion: Any) -> str | None:
    text: str | None = completion.choices[0].message.content
    return text


def cached(completion: Any) -> int:
    """Tokens of the prompt that did not have to be computed."""
    tokens: int = completion.usage.prompt_tokens_details.cached_tokens
    return tokens


def session_of(completion: Any) -> str:
    return str(completion.session_id)


def prompt_tokens(messages: Messages, **options: Any) -> list[int]:
    """What the model reads of a chat."""
    text = TOKENIZER.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **options
    )
    tokens: list[int] = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return tokens
