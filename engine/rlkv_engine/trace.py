"""A trace: agent sessions as a structure of arrays, the one input of every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import InputError

#: Longest context, in tokens, that the arithmetic of a trace is meant for.
MAX_TOKENS = 2**30
#: Rows of ``Trace.turns``, in this order (state.INPUT_TOKENS, ...).
_TURN_COLUMNS = ("input_tokens", "shared_prefix_tokens", "output_tokens", "tool")
#: Turns looked at together where a whole column more would be too much.
_PART = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Sessions in order of arrival; session ``i`` owns turns ``first_turn[i]:first_turn[i + 1]``.

    A turn is one LLM request: ``input_tokens`` is its whole prompt, of which the first
    ``shared_prefix_tokens`` are unchanged from the session's context so far (reusable KV).
    It generates ``output_tokens`` and then pauses for ``pause_s`` on ``tools[tool]``;
    the last turn of a session has ``pause_s`` NaN and tool -1.

    The columns given are copied into ``sessions`` and ``turns``, of which they become rows: an
    engine works on these two as they are, so that a trace is in memory once.
    """

    name: str
    tools: tuple[str, ...]
    first_turn: NDArray[np.int64]  # [num_sessions + 1]
    arrival_s: NDArray[np.float64]  # [num_sessions], ascending; NaN where not composed yet
    input_tokens: NDArray[np.int64]  # [num_turns]
    shared_prefix_tokens: NDArray[np.int64]  # [num_turns]
    output_tokens: NDArray[np.int64]  # [num_turns], at least 1
    tool: NDArray[np.int64]  # [num_turns], index into tools
    pause_s: NDArray[np.float64]  # [num_turns]
    session_ids: Sequence[str]  # [num_sessions]
    roots: Sequence[str]  # [num_sessions], conversation root: train and test never share one
    #: 0: open loop (sessions arrive at arrival_s); N: closed loop, N sessions at a time, the
    #: next one arrives when one ends.
    num_concurrent: int = 0
    sessions: NDArray[np.float64] = field(init=False)  # [2, num_sessions]: arrival_s, weight
    turns: NDArray[np.int64] = field(init=False)  # [4, num_turns]

    def __post_init__(self) -> None:
        """Lays the columns out as engines read them."""
        # What is wrong with them, validate() says; here they need not make sense yet.
        generated = np.concatenate([[0], np.cumsum(self.output_tokens)])[self.first_turn]
        with np.errstate(divide="ignore"):
            weight = 1.0 / np.diff(generated)
        sessions = np.stack([np.asarray(self.arrival_s, np.float64), weight])
        turns = np.stack([getattr(self, name) for name in _TURN_COLUMNS], dtype=np.int64)
        laid_out = {
            "sessions": sessions,
            "turns": turns,
            "first_turn": np.require(self.first_turn, np.int64, ["C", "W"]),
            "arrival_s": sessions[0],
            "pause_s": np.require(self.pause_s, np.float64, ["C", "W"]),
            **dict(zip(_TURN_COLUMNS, turns, strict=True)),
        }
        for name, array in laid_out.items():
            object.__setattr__(self, name, array)

    @property
    def num_sessions(self) -> int:
        """Sessions in the trace."""
        return len(self.first_turn) - 1

    @property
    def num_turns(self) -> int:
        """Turns (LLM requests) of all sessions."""
        return len(self.input_tokens)

    @property
    def output_tokens_per_session(self) -> NDArray[np.int64]:
        """Generated tokens of each session, shape ``[num_sessions]``."""
        if self.num_sessions == 0:
            return np.zeros(0, np.int64)
        return np.add.reduceat(self.output_tokens, self.first_turn[:-1])

    @property
    def total_pause_s(self) -> NDArray[np.float64]:
        """Tool time of each session, shape ``[num_sessions]``."""
        if self.num_sessions == 0:
            return np.zeros(0)
        return np.add.reduceat(np.nan_to_num(self.pause_s), self.first_turn[:-1])

    @property
    def max_context_tokens(self) -> int:
        """Longest prompt plus its output over all turns; 0 for an empty trace."""
        longest = 0
        for i in range(0, self.num_turns, _PART):
            part = self.turns[:, i : i + _PART]
            longest = max(longest, int((part[0] + part[2]).max()))
        return longest

    @property
    def num_bytes(self) -> int:
        """Memory of the columns; ``session_ids`` and ``roots`` are not counted."""
        columns = (self.first_turn, self.sessions, self.turns, self.pause_s)
        return sum(array.nbytes for array in columns)

    def mean_pause_s(self) -> float:
        """Mean pause of all calls; 1.0 where there is none (a harmless unit)."""
        pauses = self.pause_s[np.isfinite(self.pause_s)]
        return float(pauses.mean()) if pauses.size and pauses.mean() > 0 else 1.0

    def select(self, sessions: NDArray[np.int64]) -> Trace:
        """A new trace of the given sessions (repeats allowed), in the given order."""
        starts = self.first_turn[sessions]
        lengths = self.first_turn[sessions + 1] - starts
        first_turn = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        turns = np.repeat(starts - first_turn[:-1], lengths) + np.arange(first_turn[-1])
        return replace(
            self,
            first_turn=first_turn,
            arrival_s=self.arrival_s[sessions],
            input_tokens=self.input_tokens[turns],
            shared_prefix_tokens=self.shared_prefix_tokens[turns],
            output_tokens=self.output_tokens[turns],
            tool=self.tool[turns],
            pause_s=self.pause_s[turns],
            session_ids=[self.session_ids[i] for i in sessions],
            roots=[self.roots[i] for i in sessions],
        )

    def with_arrivals(self, arrival_s: NDArray[np.float64], num_concurrent: int = 0) -> Trace:
        """The same sessions with arrival times of shape ``[num_sessions]``, ascending."""
        arrival_s = np.ascontiguousarray(arrival_s, np.float64)
        return replace(self, arrival_s=arrival_s, num_concurrent=num_concurrent)

    def validate(self) -> None:
        """Raises ``InputError`` naming the session and turn of the first value that cannot be."""
        is_last = np.zeros(self.num_turns, bool)
        is_last[self.first_turn[1:] - 1] = True
        checks = [
            (self.input_tokens < 1, "input_tokens must be at least 1", self.input_tokens),
            (self.input_tokens > MAX_TOKENS, f"input_tokens above {MAX_TOKENS}", self.input_tokens),
            (self.output_tokens < 1, "output_tokens must be at least 1", self.output_tokens),
            (
                self.output_tokens > MAX_TOKENS,
                f"output_tokens above {MAX_TOKENS}",
                self.output_tokens,
            ),
            (
                (self.shared_prefix_tokens < 0) | (self.shared_prefix_tokens > self.input_tokens),
                "shared_prefix_tokens must be between 0 and input_tokens",
                self.shared_prefix_tokens,
            ),
            (
                ~is_last & ~((self.pause_s >= 0) & np.isfinite(self.pause_s)),
                "pause_s must be a finite number, 0 or more, on every turn but the last",
                self.pause_s,
            ),
        ]
        for bad, reason, values in checks:
            if bad.any():
                turn = int(np.argmax(bad))
                session = int(np.searchsorted(self.first_turn, turn, side="right")) - 1
                raise InputError(
                    f"session {self.session_ids[session]!r} turn {turn - self.first_turn[session]}:"
                    f" {reason} (got {values[turn]})",
                    path=self.name,
                )
        if np.any(np.diff(self.first_turn) < 1):
            session = int(np.argmax(np.diff(self.first_turn) < 1))
            raise InputError(f"session {self.session_ids[session]!r} has no turns", path=self.name)
        if np.any(np.diff(self.arrival_s) < 0):
            session = int(np.argmax(np.diff(self.arrival_s) < 0)) + 1
            raise InputError(
                f"session {self.session_ids[session]!r} arrives before the one ahead of it",
                path=self.name,
            )
