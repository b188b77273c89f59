"""The own trace format: one JSON object a line and turn, the turns of a session together.

An optional first line is a header, ``{"rlkv_trace": 1, "name", "tools", "num_concurrent"}``.
A turn has ``session_id``, ``turn`` (from 0), ``input_tokens``, ``shared_prefix_tokens``,
``output_tokens``, ``tool`` and ``pause_s`` (null on a session's last turn); on the first turn
also ``arrival_s`` (seconds, optional) and ``root`` (conversation root, optional: the session
id stands in). Unknown fields are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces.builder import TraceBuilder
from rlkv_envs.traces.json_rows import decode_row
from rlkv_envs.traces.lines import read_lines
from rlkv_envs.traces.whole_file import whole_file

_Tokens = Annotated[int, msgspec.Meta(ge=1, le=2**30)]

_HEADER_KEY = re.compile(rb'"rlkv_trace"\s*:')


class Header(msgspec.Struct):
    """What the lines alone do not say."""

    rlkv_trace: Literal[1]
    name: str
    tools: tuple[str, ...] = ()
    num_concurrent: Annotated[int, msgspec.Meta(ge=0, le=2**30)] = 0


class Turn(msgspec.Struct):
    """One line: a turn of a session."""

    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    turn: Annotated[int, msgspec.Meta(ge=0, le=2**30)]
    input_tokens: _Tokens
    shared_prefix_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**30)]
    output_tokens: _Tokens
    tool: str | None
    pause_s: Annotated[float, msgspec.Meta(ge=0)] | None
    arrival_s: float | None = None
    root: str | None = None


def read(path: Path | str) -> Trace:
    """Reads a file of the own format, plain or gzip.

    Raises:
        InputError: with the file, the line and the reason.
    """
    path = Path(path)
    builder = TraceBuilder(path)
    turn_decoder = msgspec.json.Decoder(Turn)
    header = Header(1, path.name.removesuffix(".gz").removesuffix(".jsonl"))
    session_id: str | None = None
    previous: Turn | None = None
    for line, data in read_lines(path):
        if previous is None and _HEADER_KEY.search(data):
            header = decode_row(msgspec.json.Decoder(Header), data, path, line)
            builder = TraceBuilder(path, header.tools)
            continue
        turn = decode_row(turn_decoder, data, path, line)
        if turn.session_id != session_id:
            session_id = turn.session_id
            arrival_s = math.nan if turn.arrival_s is None else turn.arrival_s
            builder.start_session(session_id, root=turn.root, arrival_s=arrival_s, line=line)
        elif previous is not None and (previous.pause_s is None or previous.tool is None):
            reason = f"turn {previous.turn} of session {session_id!r} needs a tool and a pause_s"
            raise InputError(f"{reason}: it is not the last", path=path, line=line)
        builder.expect_turn(turn.turn, line=line)
        if turn.shared_prefix_tokens > min(builder.context_tokens, turn.input_tokens):
            reason = (
                f"shared_prefix_tokens {turn.shared_prefix_tokens} above input_tokens"
                f" {turn.input_tokens} or the session's context so far {builder.context_tokens}"
            )
            raise InputError(reason, path=path, line=line)
        builder.add_turn(
            turn.input_tokens,
            turn.output_tokens,
            shared_prefix_tokens=turn.shared_prefix_tokens,
            tool=turn.tool,
            pause_s=turn.pause_s,
            line=line,
        )
        previous = turn
    return builder.build(header.name, header.num_concurrent)


def encode_lines(trace: Trace) -> Iterator[bytes]:
    """The lines of a trace, each with its line end."""
    encoder = msgspec.json.Encoder()
    header = Header(1, trace.name, trace.tools, trace.num_concurrent)
    yield encoder.encode(header) + b"\n"
    for session in range(trace.num_sessions):
        first, end = int(trace.first_turn[session]), int(trace.first_turn[session + 1])
        for i in range(first, end):
            is_last = i == end - 1
            row: dict[str, object] = {
                "session_id": trace.session_ids[session],
                "turn": i - first,
                "input_tokens": int(trace.input_tokens[i]),
                "shared_prefix_tokens": int(trace.shared_prefix_tokens[i]),
                "output_tokens": int(trace.output_tokens[i]),
                "tool": None if is_last else trace.tools[trace.tool[i]],
                "pause_s": None if is_last else float(trace.pause_s[i]),
            }
            if i == first:
                arrival_s = float(trace.arrival_s[session])
                row["arrival_s"] = None if math.isnan(arrival_s) else arrival_s
                row["root"] = trace.roots[session]
            yield encoder.encode(row) + b"\n"


def write_trace(trace: Trace, path: Path | str) -> None:
    """Writes a trace so that ``read`` gives exactly the same one back.

    The file appears complete or not at all: an earlier one stays untouched on failure.

    Raises:
        InputError: it cannot be written there.
    """
    with whole_file(path) as stream:
        stream.writelines(encode_lines(trace))
