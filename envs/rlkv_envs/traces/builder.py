"""Collects sessions turn by turn into the arrays of a ``Trace``."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import numpy as np

from rlkv_engine.errors import InputError
from rlkv_engine.trace import MAX_TOKENS, Trace


class TraceBuilder:
    """Appends sessions in any order of arrival; ``build`` sorts and checks them.

    Holds 8 bytes a field and turn, whatever the length of the file. The pause of a session's
    last turn, given or not, is dropped: nothing follows it.
    """

    def __init__(self, path: Path | str, tools: tuple[str, ...] = ()):
        self.path = path
        self._tools = {tool: i for i, tool in enumerate(tools)}
        self._session_ids: list[str] = []
        self._roots: list[str] = []
        self._seen: set[str] = set()
        self._arrival_s = array("d")
        self._first_turn = array("q", [0])
        self._input = array("q")
        self._shared = array("q")
        self._output = array("q")
        self._tool = array("q")
        self._pause_s = array("d")

    @property
    def num_turns(self) -> int:
        """Turns of all sessions so far, the open one included."""
        return len(self._input)

    @property
    def num_turns_of_session(self) -> int:
        """Turns of the open session so far."""
        return len(self._input) - self._first_turn[-1]

    @property
    def context_tokens(self) -> int:
        """Prompt plus output of the open session's latest turn; 0 before the first."""
        if self.num_turns_of_session == 0:
            return 0
        return self._input[-1] + self._output[-1]

    def start_session(
        self,
        session_id: str,
        *,
        root: str | None = None,
        arrival_s: float = math.nan,
        line: int | None = None,
    ) -> None:
        """Opens the next session, closing the one before."""
        self.end_session()
        if session_id in self._seen:
            reason = (
                f"session {session_id!r} appears again: its turns must stand on adjoining lines"
            )
            raise InputError(reason, path=self.path, line=line)
        if math.isinf(arrival_s):
            reason = f"session {session_id!r}: arrival is not a finite number"
            raise InputError(reason, path=self.path, line=line)
        self._seen.add(session_id)
        self._session_ids.append(session_id)
        self._roots.append(session_id if root is None else root)
        self._arrival_s.append(arrival_s)

    def expect_turn(self, turn: int, line: int | None = None) -> None:
        """Raises ``InputError`` unless ``turn`` is the number of the turn that comes next."""
        if turn != self.num_turns_of_session:
            reason = (
                f"session {self._session_ids[-1]!r}: expected turn {self.num_turns_of_session},"
                f" got turn {turn} (turns must be in order, none left out or repeated)"
            )
            raise InputError(reason, path=self.path, line=line)

    def add_turn(
        self,
        input_tokens: int,
        output_tokens: int,
        *,
        shared_prefix_tokens: int,
        tool: str | None,
        pause_s: float | None,
        line: int | None = None,
        place: str = "",
    ) -> None:
        """Appends a turn to the open session.

        ``shared_prefix_tokens`` is cut to the session's own context so far: on a first turn
        nothing is shared, whatever other sessions may hold. A pause of None or NaN is kept as
        unknown, which only a last turn may have. ``place`` begins the message of an error where
        a line number does not say enough.
        """
        place = f"{place}: " if place else ""
        for name, value, least in (
            ("input tokens", input_tokens, 1),
            ("output tokens", output_tokens, 1),
            ("shared prefix tokens", shared_prefix_tokens, 0),
        ):
            if not least <= value <= MAX_TOKENS:
                reason = f"{place}{name} must be {least} to {MAX_TOKENS}, got {value}"
                raise InputError(reason, path=self.path, line=line)
        pause = math.nan if pause_s is None else float(pause_s)
        if pause < 0 or math.isinf(pause):
            reason = f"{place}pause must be a finite number of seconds, 0 or more, got {pause_s}"
            raise InputError(reason, path=self.path, line=line)
        shared = min(shared_prefix_tokens, self.context_tokens, input_tokens)
        self._shared.append(shared)
        self._input.append(input_tokens)
        self._output.append(output_tokens)
        index = -1 if tool is None else self._tools.setdefault(tool, len(self._tools))
        self._tool.append(index)
        self._pause_s.append(pause)

    def set_last_pause(self, pause_s: float, tool: str | None = None) -> None:
        """Fills in the pause (and the tool) of the latest turn, known only afterwards."""
        self._pause_s[-1] = pause_s
        if tool is not None:
            self._tool[-1] = self._tools.setdefault(tool, len(self._tools))

    def end_session(self) -> None:
        """Closes the open session, if there is one with turns."""
        if len(self._first_turn) <= len(self._session_ids):
            self._first_turn.append(len(self._input))

    def build(self, name: str, num_concurrent: int = 0) -> Trace:
        """The sorted and validated trace.

        Raises:
            InputError: there are no sessions, some have an arrival and some not, a pause is
                missing before a later turn, or a value is out of range.
        """
        self.end_session()
        if not self._session_ids:
            raise InputError("no sessions in the file", path=self.path)
        arrival_s = np.array(self._arrival_s, np.float64)
        missing = np.isnan(arrival_s)
        if missing.any() and not missing.all():
            session = self._session_ids[int(np.argmax(missing))]
            raise InputError(
                f"session {session!r} has no arrival but others have one", path=self.path
            )
        first_turn = np.array(self._first_turn, np.int64)
        pause_s = np.array(self._pause_s, np.float64)
        tool = np.array(self._tool, np.int64)
        if len(first_turn) > 1 and np.all(np.diff(first_turn) > 0):
            pause_s[first_turn[1:] - 1] = np.nan
            tool[first_turn[1:] - 1] = -1
        trace = Trace(
            name=name,
            tools=tuple(self._tools),
            first_turn=first_turn,
            arrival_s=arrival_s,
            input_tokens=np.array(self._input, np.int64),
            shared_prefix_tokens=np.array(self._shared, np.int64),
            output_tokens=np.array(self._output, np.int64),
            tool=tool,
            pause_s=pause_s,
            session_ids=self._session_ids,
            roots=self._roots,
            num_concurrent=num_concurrent,
        )
        if np.any(np.diff(arrival_s) < 0):
            trace = trace.select(np.argsort(arrival_s, kind="stable"))
        try:
            trace.validate()
        except InputError as error:
            raise InputError(error.reason, path=self.path) from None
        return trace
