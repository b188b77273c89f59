"""Where a JSON object ends in a text that is still being written."""

from __future__ import annotations


class JsonScanner:
    """Follows one JSON object, character by character.

    It looks at strings and brackets alone: what stands between them need not be JSON.
    """

    def __init__(self) -> None:
        #: The object has ended.
        self.complete = False
        #: What comes next stands in no JSON outside of a string.
        self.broken = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def done(self) -> bool:
        """Nothing more of the text belongs to the object."""
        return self.complete or self.broken

    def read(self, text: str) -> int:
        """Reads on; how many characters of ``text`` belong to the object or stand before it."""
        for i, character in enumerate(text):
            if self.done:
                return i
            if self._in_string:
                self._read_in_string(character)
            elif character == "<" or (self._depth == 0 and character != "{" and character.strip()):
                self.broken = True
                return i
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                self.complete = self._depth == 0
        return len(text)

    def _read_in_string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
