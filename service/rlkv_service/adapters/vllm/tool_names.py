"""Which tool an answer calls, from its tokens: the engine knows of no tool calls."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from rlkv_service.schema import MAX_NAME_LENGTH

#: Who is waited for after an answer without tool calls, as in ``openai_server.turn``.
HUMAN = "human"
#: A call whose name cannot be read.
UNREADABLE = "unknown"
#: Tokens after the mark in which the name is looked for.
MAX_NAME_TOKENS = 64
_NAME = re.compile(r'"name"\s*:\s*("(?:[^"\\]|\\.)*")')


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Text as tokens."""

    def decode(self, token_ids: list[int]) -> str:
        """Tokens as text."""


class ToolNames:
    """Reads the name of the last call of an answer (Hermes and Qwen: a mark, then JSON).

    The tokenizer is loaded on a thread of its own; until it is there, and where there is none,
    every answer is taken for one that waits for a human.

    Args:
        load: makes the tokenizer; slow. None: there is none.
        mark: text that begins a call.
    """

    def __init__(self, load: Callable[[], Tokenizer] | None, mark: str) -> None:
        self._tokenizer: Tokenizer | None = None
        self._mark: list[int] = []
        #: Why there is no tokenizer, for people.
        self.error = ""
        self._thread: threading.Thread | None = None
        if load is not None:
            self._thread = threading.Thread(
                target=self._load, args=(load, mark), name="rlkv-tokenizer", daemon=True
            )
            self._thread.start()

    def _load(self, load: Callable[[], Tokenizer], mark: str) -> None:
        try:
            tokenizer = load()
            self._mark = list(tokenizer.encode(mark, add_special_tokens=False))
            self._tokenizer = tokenizer
        except Exception as error:  # whatever a tokenizer of somebody raises
            self.error = f"{type(error).__name__}: {error}"

    def wait(self, timeout_s: float) -> bool:
        """Until the tokenizer is there, or cannot be had; whether it is there."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._tokenizer is not None

    def of(self, output: Sequence[int]) -> str:
        """The tool that an answer calls, ``HUMAN`` where it calls none."""
        tokenizer, mark = self._tokenizer, self._mark
        if tokenizer is None or not mark:
            return HUMAN
        tokens, size = list(output), len(mark)
        for i in range(len(tokens) - size, -1, -1):
            if tokens[i] == mark[0] and tokens[i : i + size] == mark:
                after = tokens[i + size : i + size + MAX_NAME_TOKENS]
                return name_in(tokenizer.decode(after))
        return HUMAN


def name_in(text: str) -> str:
    """The name in the JSON that follows the mark of a call."""
    found = _NAME.search(text)
    if found is None:
        return UNREADABLE
    try:
        name = json.loads(found[1])
    except ValueError:
        return UNREADABLE
    # A model may write halves of characters, which no message can carry.
    whole = str(name).encode("utf-8", "replace").decode()
    return whole[:MAX_NAME_LENGTH] or UNREADABLE
