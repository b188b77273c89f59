"""From a request to the tokens of its prompt, and to the turn that reads its answer."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlkv_service.openai_server.chat_prompt import chat_prompt
from rlkv_service.openai_server.errors import ApiError
from rlkv_service.openai_server.protocol import ChatRequest, CompletionRequest
from rlkv_service.openai_server.tool_call_parser import ToolCallParser
from rlkv_service.openai_server.turn import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: As long are completions for which nothing else was asked; OpenAI's number.
COMPLETION_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt, and what becomes of its answer."""

    prompt: array[int]
    turn: Turn
    max_new_tokens: int | None  #: None: as many as there is room for


def prepare_chat(tokenizer: PreTrainedTokenizerBase, request: ChatRequest) -> Prepared:
    """Templates and tokens of a chat.

    Raises:
        ApiError: the template does not take it.
    """
    chat = chat_prompt(tokenizer, request)
    prompt = _encode(tokenizer, chat.text, special=False)
    turn = Turn(
        tokenizer,
        prompt,
        stop=request.stop_strings,
        parser=None if chat.calls is None else ToolCallParser(chat.calls),
        beginning=chat.beginning,
        one_call=request.parallel_tool_calls is False,
    )
    return Prepared(prompt, turn, request.max_completion_tokens or request.max_tokens)


def prepare_completion(
    tokenizer: PreTrainedTokenizerBase, request: CompletionRequest, vocab_size: int
) -> Prepared:
    """Tokens of a completion's prompt.

    Raises:
        ApiError: several prompts, none, or a token that the model does not have.
    """
    said = _one_prompt(request.prompt)
    if isinstance(said, str):
        prompt = _encode(tokenizer, said, special=True)
    else:
        for token in said:
            if not 0 <= token < vocab_size:
                reason = f"token {token} is none of this model's {vocab_size}"
                raise ApiError(400, reason, param="prompt")
        prompt = array("q", said)
    if not prompt:
        raise ApiError(400, "the prompt has no tokens", param="prompt")
    turn = Turn(tokenizer, prompt, stop=request.stop_strings)
    return Prepared(prompt, turn, request.max_tokens or COMPLETION_TOKENS)


def _one_prompt(said: str | list[int] | list[str] | list[list[int]]) -> str | list[int]:
    if isinstance(said, str):
        return said
    prompts = [prompt for prompt in said if not isinstance(prompt, int)]
    if not prompts:
        return [token for token in said if isinstance(token, int)]
    if len(prompts) > 1:
        reason = f"{len(prompts)} prompts in one request, at most 1 is answered"
        raise ApiError(400, reason, param="prompt", code="unsupported_value")
    return prompts[0]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> array[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(400, f"the prompt is no text: {error}", code="invalid_text") from error
    return array("q", tokenizer(text, add_special_tokens=special)["input_ids"])
