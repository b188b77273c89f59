"""Sessions as they were served, from their outcomes: a trace that a simulator replays.

A turn is known from the outcome of the pause after it, a session's last turn from its end. What is
missing is not made up: a session is cut where a turn is lost, and what follows is a session of its
own with the same conversation root, so that training and test never share one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from rlkv_engine.errors import InputError
from rlkv_engine.trace import MAX_TOKENS, Trace
from rlkv_envs.traces.builder import TraceBuilder
from rlkv_service.decision_log.log_reader import OutcomeEntry
from rlkv_service.schema import Outcome, SessionEnd

#: Fewer sessions than this are not worth a simulator.
MIN_SESSIONS = 20


@dataclass(slots=True)
class SessionCounts:
    """What a trace was made of."""

    num_sessions: int = 0  #: in the log
    num_open: int = 0  #: of which no end is in the log; their last turn is the last one known
    num_begun_before: int = 0  #: whose first turns are not in the log
    num_gaps: int = 0  #: places where turns are missing; the session is cut there
    num_lost_turns: int = 0  #: turns missing there, and before the log begins
    num_unusable: int = 0  #: outcomes and ends without tokens, or with impossible numbers

    def as_json(self) -> dict[str, int]:
        """The counts by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def summary(self) -> str:
        """One line for people."""
        told = [f"{self.num_sessions:,} sessions, {self.num_open:,} of them without an end"]
        for num, what in (
            (self.num_begun_before, "begun before the log"),
            (self.num_gaps, "cut where turns are missing"),
            (self.num_lost_turns, "turns missing"),
            (self.num_unusable, "outcomes or ends without usable numbers"),
        ):
            if num:
                told.append(f"{num:,} {what}")
        return "; ".join(told)


class _Turn(NamedTuple):
    input_tokens: int
    output_tokens: int
    new_tokens: int  # of the next prompt; 0: not said
    tool: str | None  # None: the session ended with it
    pause_s: float
    begun_s: float  # when it ended in a pause, about
    started_s: float  # its session, 0: not said


class _Session:
    """The turns of a session, in whatever order they were said."""

    def __init__(self) -> None:
        self.turns: dict[int, _Turn] = {}
        self.has_end = False


def trace_of_outcomes(
    entries: Iterable[OutcomeEntry],
    name: str,
    *,
    path: Path | str,
    min_sessions: int = MIN_SESSIONS,
) -> tuple[Trace, SessionCounts]:
    """A trace of the sessions in a log.

    Args:
        entries: outcomes and ends, in the order in which the server got them.
        name: of the trace.
        path: where they come from, for errors.
        min_sessions: fewer are refused.

    Raises:
        InputError: there are too few sessions, or none of them paused; with the number.
    """
    counts = SessionCounts()
    sessions = _sessions(entries, counts)
    counts.num_sessions = len(sessions)
    if len(sessions) < min_sessions:
        raise InputError(
            f"{len(sessions)} sessions with known tokens in the log, {min_sessions} are needed",
            path=path,
        )
    if not any(len(session.turns) > 1 for session in sessions.values()):
        raise InputError(f"none of the {len(sessions)} sessions has a second turn", path=path)
    engines = {engine_id for engine_id, _, _ in sessions}
    builder, used = TraceBuilder(path), set[str]()
    first_s = min(_arrival_s(session) for session in sessions.values())
    for (engine_id, session_id, life), session in sessions.items():
        root = session_id if len(engines) == 1 else f"{engine_id}/{session_id}"
        _append(builder, used, root, life, session, first_s, counts)
    return builder.build(name), counts


def _sessions(
    entries: Iterable[OutcomeEntry], counts: SessionCounts
) -> dict[tuple[str, str, int], _Session]:
    lives: dict[tuple[str, str], int] = {}
    sessions: dict[tuple[str, str, int], _Session] = {}
    for entry in entries:
        message = entry.message
        turn = _turn(entry)
        if turn is None:
            counts.num_unusable += 1
            if isinstance(message, Outcome):
                continue
        who = (message.engine_id, message.session)
        session = sessions.get((*who, lives.get(who, 0)))
        if turn is not None and session is not None and message.turn in session.turns:
            # A name that is used again.
            lives[who] = lives.get(who, 0) + 1
            session = None
        if session is None:
            if turn is None:
                continue
            session = sessions[*who, lives.setdefault(who, 0)] = _Session()
        if turn is not None:
            session.turns[message.turn] = turn
        session.has_end |= isinstance(message, SessionEnd)
    return sessions


def _turn(entry: OutcomeEntry) -> _Turn | None:
    # None where it cannot be used.
    message = entry.message
    given_s = (message.started_s, message.ended_s)
    if not all(0.0 <= each < math.inf for each in given_s) or message.turn < 0:
        return None
    input_tokens, output_tokens = message.input_tokens, message.output_tokens
    tool, pause_s, new_tokens = None, math.nan, 0
    if isinstance(message, Outcome):
        tool, pause_s, new_tokens = message.tool, message.pause_s, message.new_tokens
        if not 0.0 <= pause_s < math.inf or not 0 <= new_tokens <= MAX_TOKENS:
            return None
        if input_tokens == 0:
            # Not said: the context is the prompt and what was generated, a token at least.
            output_tokens = max(output_tokens, 1)
            input_tokens = message.context_tokens - output_tokens
    if not 1 <= input_tokens <= MAX_TOKENS or not 1 <= output_tokens <= MAX_TOKENS:
        return None
    begun_s = (message.ended_s or entry.at_s) - (0.0 if tool is None else pause_s)
    return _Turn(input_tokens, output_tokens, new_tokens, tool, pause_s, begun_s, message.started_s)


def _arrival_s(session: _Session) -> float:
    first = session.turns[min(session.turns)]
    return first.started_s or first.begun_s


def _append(
    builder: TraceBuilder, used: set[str], root: str, life: int, session: _Session,
    first_s: float, counts: SessionCounts,
) -> None:  # fmt: skip
    numbers = sorted(session.turns)
    counts.num_open += not session.has_end
    counts.num_begun_before += numbers[0] > 0
    counts.num_lost_turns += numbers[0]
    name = _unused(root if life == 0 else f"{root}~{life}", used)
    before: int | None = None
    new_tokens = 0
    for number in numbers:
        turn = session.turns[number]
        if before is None:
            builder.start_session(name, root=root, arrival_s=_arrival_s(session) - first_s)
        elif number != before + 1:
            counts.num_gaps += 1
            counts.num_lost_turns += number - before - 1
            arrival_s = max(turn.begun_s - first_s, 0.0)
            part = _unused(f"{name}#{number}", used)
            builder.start_session(part, root=root, arrival_s=arrival_s)
            new_tokens = 0
        # Where nobody says what is new, all of the context is taken to be in the next prompt.
        shared = turn.input_tokens - new_tokens if new_tokens else turn.input_tokens
        builder.add_turn(
            turn.input_tokens,
            turn.output_tokens,
            shared_prefix_tokens=max(shared, 0),
            tool=turn.tool,
            pause_s=turn.pause_s,
        )
        before, new_tokens = number, turn.new_tokens


def _unused(name: str, used: set[str]) -> str:
    # Engines name sessions as they like, also as we name parts of them.
    while name in used:
        name += "'"
    used.add(name)
    return name
