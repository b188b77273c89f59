"""Text of tokens as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Tokens of the prompt that are decoded with the first of the answer: some decoders drop a blank at
#: the beginning of a text, and an answer does not begin one.
CONTEXT_TOKENS = 5
#: A character has four bytes at most, so that after so many tokens more will not complete it.
MAX_HELD_TOKENS = 8
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Turns tokens into text one by one, and never gives half a character.

    A token's text may depend on those before it, so that each is decoded behind a few others, as in
    vLLM's ``detokenizer_utils.detokenize_incrementally``.

    Args:
        tokenizer: of the model.
        prompt: tokens before the first one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        # [0, _given) was given as text, what is behind it is held.
        self._tokens = list(prompt[-CONTEXT_TOKENS:])
        self._given = len(self._tokens)

    def push(self, token: int) -> str:
        """The text that this token completes."""
        self._tokens.append(token)
        text = self._new_text()
        unfinished = not text or text.endswith(_INCOMPLETE)
        if unfinished and len(self._tokens) - self._given < MAX_HELD_TOKENS:
            return ""
        return self._give(text)

    def flush(self) -> str:
        """What is left, half a character as the replacement character."""
        return self._give(self._new_text())

    def _new_text(self) -> str:
        return self._decode(self._tokens)[len(self._decode(self._tokens[: self._given])) :]

    def _give(self, text: str) -> str:
        self._tokens = self._tokens[self._given :] or self._tokens
        self._given = len(self._tokens)
        return text

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text
