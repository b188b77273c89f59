"""An answer that is put together of its pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from rlkv_service.proxy.answers import Answer, Choice, ToolCall


class AnswerParts(ABC):
    """Texts and calls of each choice, by its index."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.is_over = False  #: whether an event was the last one
        self.texts: dict[int, list[str]] = {}
        self._calls: dict[int, dict[Any, list[str]]] = {}  # [id, name, arguments]

    @abstractmethod
    def take(self, data: bytes) -> None:
        """A piece of JSON: an event's, or the whole answer.

        Raises:
            msgspec.MsgspecError: it is not what the API says.
        """

    def text(self, index: int, text: str) -> None:
        """More text of a choice."""
        self.texts.setdefault(index, []).append(text)

    def call(self, index: int, number: Any, call_id: str, name: str, arguments: str) -> None:
        """More of a call; what is empty is said elsewhere."""
        self.texts.setdefault(index, [])
        call = self._calls.setdefault(index, {}).setdefault(number, ["", "", ""])
        call[0] = call[0] or call_id
        call[1] = call[1] or name
        call[2] += arguments

    def choice(self, index: int) -> Choice:
        """One of the answers."""
        text = "".join(self.texts[index])
        calls = [ToolCall(*call) for call in self._calls.get(index, {}).values()]
        return Choice(text, calls)
