"""TraceLab round traces: one JSON object a round (LLM request), sessions in any order.

Published by the SyFI Lab, University of Washington (tracelab.cs.washington.edu). Fields used:
``session_id``, ``round_index``, ``input_tokens_total``, ``prefix_tokens``, ``output_tokens``,
``timing_events`` (``event_type``, ``timestamp``), ``tools`` (``tool_name``,
``tool_wall_latency_ms``) and ``project``.

What the reader does with it:
  * A pause runs from a round's last generated event (reasoning, text, tool call) to the next
    round's last input event (a round begins when the last of its parallel tools is back). Where
    stamps are missing, the longest ``tool_wall_latency_ms`` stands in.
  * The tool is ``human`` when a message of the user is among the next round's inputs, else the
    round's tool with the longest wall time, or ``other`` when there is none.
  * Prefixes cached from other sessions (a first round's system prompt) do not count as shared.
  * A round without output counts as one token. Rounds must be numbered without gaps.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces.builder import TraceBuilder
from rlkv_envs.traces.json_rows import decode_row
from rlkv_envs.traces.lines import read_lines

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**30)]
_INPUT_EVENTS = ("user_message", "tool_result")
_OUTPUT_EVENTS = ("reasoning", "text", "tool_call")


class Event(msgspec.Struct, gc=False):
    """Something that happened in a round."""

    event_type: str
    timestamp: str | None = None


class Tool(msgspec.Struct, gc=False):
    """A tool call of a round."""

    tool_name: str
    tool_wall_latency_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Round(msgspec.Struct):
    """One line: an LLM request of a session."""

    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    round_index: Annotated[int, msgspec.Meta(ge=0, le=2**30)]
    input_tokens_total: _Tokens
    prefix_tokens: _Tokens
    output_tokens: _Tokens
    timing_events: list[Event] = []
    tools: list[Tool] = []


class _Times(msgspec.Struct, gc=False):
    """What is kept of a round: NaN where the stamp is missing."""

    line: int
    round_index: int
    input_tokens: int
    prefix_tokens: int
    output_tokens: int
    first_input_s: float
    last_input_s: float
    last_output_s: float
    has_user_message: bool
    slowest_tool: str | None
    slowest_tool_s: float


def read(path: Path | str) -> Trace:
    """Reads a trace, plain or gzip.

    Raises:
        InputError: with the file, the line and the reason.
    """
    path = Path(path)
    decoder = msgspec.json.Decoder(Round)
    sessions: dict[str, list[_Times]] = {}
    for line, data in read_lines(path):
        row = decode_row(decoder, data, path, line)
        rounds = sessions.setdefault(row.session_id, [])
        if row.round_index != len(rounds):
            reason = (
                f"session {row.session_id!r}: expected round {len(rounds)}, got round"
                f" {row.round_index} (rounds must be in order, none left out or repeated)"
            )
            raise InputError(reason, path=path, line=line)
        rounds.append(_times(row, path, line))
    starts_s = [rounds[0].first_input_s for rounds in sessions.values()]
    origin_s = math.nan if any(map(math.isnan, starts_s)) else min(starts_s, default=math.nan)
    builder = TraceBuilder(path)
    for session_id, rounds in sessions.items():
        builder.start_session(
            session_id, arrival_s=rounds[0].first_input_s - origin_s, line=rounds[0].line
        )
        for index, now in enumerate(rounds):
            following = rounds[index + 1] if index + 1 < len(rounds) else None
            builder.add_turn(
                now.input_tokens,
                max(1, now.output_tokens),
                shared_prefix_tokens=now.prefix_tokens,
                tool=None if following is None else _tool(now, following),
                pause_s=None if following is None else _pause_s(now, following),
                line=now.line,
            )
    return builder.build(path.name.removesuffix(".gz").removesuffix(".jsonl"))


def _tool(now: _Times, following: _Times) -> str:
    if following.has_user_message:
        return "human"
    return now.slowest_tool or "other"


def _pause_s(now: _Times, following: _Times) -> float:
    pause_s = following.last_input_s - now.last_output_s
    return now.slowest_tool_s if math.isnan(pause_s) else max(0.0, pause_s)


def _times(row: Round, path: Path, line: int) -> _Times:
    inputs_s, outputs_s = (
        [
            _seconds(event.timestamp, path, line)
            for event in row.timing_events
            if event.event_type in kinds and event.timestamp is not None
        ]
        for kinds in (_INPUT_EVENTS, _OUTPUT_EVENTS)
    )
    slowest = max(row.tools, key=lambda tool: tool.tool_wall_latency_ms or 0.0, default=None)
    return _Times(
        line=line,
        round_index=row.round_index,
        input_tokens=row.input_tokens_total,
        prefix_tokens=row.prefix_tokens,
        output_tokens=row.output_tokens,
        first_input_s=min(inputs_s, default=math.nan),
        last_input_s=max(inputs_s, default=math.nan),
        last_output_s=max(outputs_s, default=math.nan),
        has_user_message=any(event.event_type == "user_message" for event in row.timing_events),
        slowest_tool=None if slowest is None else slowest.tool_name,
        slowest_tool_s=0.0 if slowest is None else (slowest.tool_wall_latency_ms or 0.0) / 1000,
    )


def _seconds(stamp: str, path: Path, line: int) -> float:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        reason = f"timestamp must look like 2026-06-01T05:40:20.151Z, got {stamp[:40]!r}"
        raise InputError(reason, path=path, line=line) from error
