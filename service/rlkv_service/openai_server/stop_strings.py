"""Strings at which an answer ends."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first of some strings.

    The end of a text that may be the beginning of one of them is held until more is known.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that may be shown, and whether one of the strings has come."""
        text = self._held + text
        found = [at for string in self._strings if (at := text.find(string)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max((overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """What was held: no more text comes."""
        text, self._held = self._held, ""
        return text


def overlap(text: str, string: str) -> int:
    """Length of the longest end of ``text`` that begins ``string`` and is not all of it."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if string.startswith(text[-length:]):
            return length
    return 0
