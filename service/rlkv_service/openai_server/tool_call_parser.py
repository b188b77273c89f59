"""Tool calls in the text of an answer, while it is being written."""

from __future__ import annotations

import json
import re
import uuid

from rlkv_service.openai_server.deltas import CallArguments, CallStart, Delta, Text
from rlkv_service.openai_server.json_scanner import JsonScanner
from rlkv_service.openai_server.stop_strings import overlap
from rlkv_service.openai_server.tool_call_formats import ToolCallFormat

#: Up to the arguments, if these are an object and stand behind the name.
_HEADER = re.compile(
    r'\s*\{\s*"name"\s*:\s*("(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")'
    r'\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_TEXT, _CALL, _AFTER, _PLAIN = range(4)


class ToolCallParser:
    """Splits an answer into text and calls of tools.

    A call's arguments are passed on as they come. What cannot be read as a call stays text, and so
    nothing that the model says gets lost; blanks beside a call do.
    """

    def __init__(self, form: ToolCallFormat) -> None:
        self._form = form
        #: Names of the tools whose calls are over.
        self.called: list[str] = []
        self._state = _TEXT
        self._buffer = ""
        self._blanks = ""
        self._num_started = 0
        self._call = _Call()
        self._deltas: list[Delta] = []

    def push(self, text: str) -> list[Delta]:
        """What more text brings."""
        self._buffer += text
        steps = {
            _TEXT: self._read_text,
            _CALL: self._read_call,
            _AFTER: self._read_after,
            _PLAIN: self._read_plain,
        }
        while self._buffer and steps[self._state]():
            pass
        return self._take()

    def flush(self) -> list[Delta]:
        """What was held: no more text comes."""
        if self._state == _CALL:
            self._end_call()
        elif self._state != _AFTER:
            self._say(self._buffer)
        if not self.called:
            self._deltas.append(Text(self._blanks))
        self._buffer = self._blanks = ""
        return self._take()

    # Each of these reads from the buffer, and says whether another should go on with it.

    def _read_text(self) -> bool:
        opening = self._form.opening
        if not opening:
            self._blanks += self._buffer[: -len(self._buffer.lstrip()) or None]
            self._buffer = self._buffer.lstrip()
            if not self._buffer:
                return False
            return self._begin_call() if self._buffer[0] == "{" else self._go_on(_PLAIN)
        before, found, behind = self._buffer.partition(opening)
        if found:
            self._say(before)
            self._buffer = behind
            return self._begin_call()
        held = overlap(before, opening)
        self._say(before[: len(before) - held])
        self._buffer = before[len(before) - held :]
        return False

    def _read_call(self) -> bool:
        self._buffer = self._pass_on(self._buffer)
        if not self._call.scanner.done:
            return False
        self._end_call()
        return True

    def _read_after(self) -> bool:
        opening, closing = self._form.opening, self._form.closing
        if not closing:
            self._buffer = self._buffer.lstrip("; \n\t")
            return self._go_on(_TEXT)
        # What stands between a call and its closing mark is nothing.
        found = re.search(f"{re.escape(closing)}|(?={re.escape(opening)})", self._buffer)
        if found is None:
            return False
        self._buffer = self._buffer[found.end() :]
        return self._go_on(_TEXT)

    def _read_plain(self) -> bool:
        self._say(self._buffer)
        self._buffer = ""
        return False

    def _go_on(self, state: int) -> bool:
        self._state = state
        return bool(self._buffer)

    def _begin_call(self) -> bool:
        self._call = _Call()
        return self._go_on(_CALL)

    def _pass_on(self, text: str) -> str:
        # The text behind the call.
        named = self._call.name is not None
        arguments, rest = self._call.push(text)
        if not named and self._call.name is not None:
            self._start(self._call.name)
        if arguments:
            self._deltas.append(CallArguments(self._num_started - 1, arguments))
        return rest

    def _end_call(self) -> None:
        name, call = self._call.name, self._call
        self._state = _AFTER
        if name is not None:
            if call.arguments.complete or call.scanner.broken:
                self.called.append(name)
            return
        whole = _whole_call(call.text) if call.scanner.complete else None
        if whole is None:
            self._say(self._form.opening + call.text)
            self._state = _TEXT if self._form.opening else _PLAIN
            return
        self._start(whole[0])
        self._deltas.append(CallArguments(self._num_started - 1, whole[1]))
        self.called.append(whole[0])

    def _start(self, name: str) -> None:
        self._blanks = ""
        self._deltas.append(CallStart(self._num_started, f"call_{uuid.uuid4().hex[:24]}", name))
        self._num_started += 1

    def _say(self, text: str) -> None:
        text = self._blanks + text
        said = text.rstrip()
        self._blanks = text[len(said) :]
        self._deltas.append(Text(said))

    def _take(self) -> list[Delta]:
        deltas = [d for d in self._deltas if not isinstance(d, Text) or d.text]
        self._deltas = []
        return deltas


class _Call:
    """One call while it is being written."""

    def __init__(self) -> None:
        self.text = ""
        self.scanner = JsonScanner()
        self.name: str | None = None  # known once the arguments begin
        self.arguments = JsonScanner()
        self._read = 0  # characters of ``text`` up to where the arguments are known

    def push(self, text: str) -> tuple[str, str]:
        """More of the arguments, and the text behind the call."""
        used = self.scanner.read(text)
        self.text += text[:used]
        if self.name is None:
            header = _HEADER.match(self.text)
            if header is None:
                return "", text[used:]
            self.name, self._read = _encodable(json.loads(header[1])), header.end()
        more = self.text[self._read :]
        more = more[: self.arguments.read(more)]
        self._read += len(more)
        return more, text[used:]


def _whole_call(text: str) -> tuple[str, str] | None:
    """Name and arguments of a call that is all there; None: it is none."""
    try:
        call = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    name, arguments = call.get("name"), call.get("arguments", call.get("parameters"))
    if not isinstance(name, str) or not isinstance(arguments, dict | str):
        return None
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return _encodable(name), _encodable(arguments)


def _encodable(text: str) -> str:
    # JSON may name half a surrogate pair, which is no text.
    return text.encode(errors="replace").decode()
