"""Agentic Mooncake traces (NVIDIA Dynamo): Mooncake rows joined by dependencies.

A row has ``request_id``, ``input_length``, ``output_length``, ``hash_ids`` and optionally
``session_id``, ``timestamp`` (ms), ``delay`` (ms), ``wait_for`` (request ids), ``branches``,
``prefix_reset``, ``tool_wait_ms`` and ``tool_events`` (``tool_class``, ``duration_ms``). A replay
starts a row ``delay + tool_wait_ms`` after everything in ``wait_for`` is complete; a row without
dependencies starts at its ``timestamp``.

What the reader does with it:
  * A row continues the session of the one row that it waits for; of several, the last row of its
    own ``session_id`` (or else the last one). The joins of a fork are lost: a row whose parent
    was already continued, or has another ``session_id``, begins a session of the same root.
  * Its ``delay + tool_wait_ms`` is the pause after the row before, on the class of its longest
    tool event (``other`` where there is none).
  * A session that begins with a dependency arrives with its root: how much later cannot be known
    before it is replayed.
  * The size of a block is not in the file: the smallest one that fits all rows, a power of two
    where one fits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces.builder import TraceBuilder
from rlkv_envs.traces.hash_blocks import num_common_blocks
from rlkv_envs.traces.json_rows import decode_row
from rlkv_envs.traces.lines import read_lines

_Milliseconds = Annotated[float, msgspec.Meta(ge=0)]


class ToolEvent(msgspec.Struct, gc=False):
    """A tool that ran before the row began."""

    tool_class: str
    duration_ms: _Milliseconds | None = None


class Row(msgspec.Struct):
    """One request."""

    request_id: Annotated[str, msgspec.Meta(min_length=1)]
    input_length: Annotated[int, msgspec.Meta(ge=1, le=2**30)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=2**30)]
    hash_ids: list[int] = []
    session_id: str | None = None
    timestamp: _Milliseconds | None = None
    delay: _Milliseconds | None = None
    wait_for: list[str] = []
    prefix_reset: bool | None = None
    tool_wait_ms: _Milliseconds | None = None
    tool_events: list[ToolEvent] = []


@dataclass(slots=True)
class _Session:
    """Rows that follow one another."""

    root: str
    session_id: str | None
    arrival_ms: float
    rows: list[tuple[int, Row]] = field(default_factory=list)  # (line, row)


def read(path: Path | str) -> Trace:
    """Reads a trace, plain or gzip; rows stand after everything they wait for.

    Raises:
        InputError: with the file, the line and the reason.
    """
    path = Path(path)
    decoder = msgspec.json.Decoder(Row)
    sessions: list[_Session] = []
    by_request: dict[str, _Session] = {}
    for line, data in read_lines(path):
        row = decode_row(decoder, data, path, line)
        if row.request_id in by_request:
            raise InputError(f"request {row.request_id!r} appears twice", path=path, line=line)
        for request_id in row.wait_for:
            if request_id not in by_request:
                reason = f"waits for {request_id!r}, which is not on an earlier line"
                raise InputError(reason, path=path, line=line)
        session = _session_of(row, by_request, path, line)
        if not session.rows:
            sessions.append(session)
        session.rows.append((line, row))
        by_request[row.request_id] = session
    if not sessions:
        raise InputError("no sessions in the file", path=path)
    return _build(path, sessions, _block_tokens(path, sessions))


def _session_of(row: Row, by_request: dict[str, _Session], path: Path, line: int) -> _Session:
    """The session the row continues, or a new one for it to begin."""
    parents = [by_request[request_id] for request_id in row.wait_for]
    if not parents:
        if row.timestamp is None:
            reason = "a row that waits for nothing needs a timestamp"
            raise InputError(reason, path=path, line=line)
        return _Session(row.session_id or row.request_id, row.session_id, row.timestamp)
    own = [parent for parent in parents if parent.session_id == row.session_id]
    parent = (own or parents)[-1]
    is_tail = parent.rows[-1][1].request_id in row.wait_for
    if own and is_tail:
        return parent
    return _Session(parent.root, row.session_id, parent.arrival_ms)


def _block_tokens(path: Path, sessions: list[_Session]) -> int:
    """Tokens of a block: ``ceil(input_length / block)`` is the number of hash ids of each row."""
    smallest, largest = 1, 2**30
    for session in sessions:
        for line, row in session.rows:
            num_blocks = len(row.hash_ids)
            if num_blocks == 0:
                continue
            smallest = max(smallest, -(-row.input_length // num_blocks))
            if num_blocks > 1:
                largest = min(largest, (row.input_length - 1) // (num_blocks - 1))
            if smallest > largest:
                reason = "input_length and the number of hash_ids fit no block size of the others"
                raise InputError(reason, path=path, line=line)
    power_of_two = 1 << (smallest - 1).bit_length()
    return power_of_two if power_of_two <= largest else smallest


def _build(path: Path, sessions: list[_Session], block_tokens: int) -> Trace:
    builder = TraceBuilder(path)
    names: dict[str, int] = {}
    for session in sessions:
        name = session.session_id or session.rows[0][1].request_id
        names[name] = names.get(name, 0) + 1
        if names[name] > 1:
            name = f"{name}#{names[name]}"
        builder.start_session(
            name, root=session.root, arrival_s=session.arrival_ms / 1000, line=session.rows[0][0]
        )
        before: list[int] = []
        for index, (line, row) in enumerate(session.rows):
            shared = 0
            if index > 0:
                pause_s = ((row.delay or 0.0) + (row.tool_wait_ms or 0.0)) / 1000
                builder.set_last_pause(pause_s, _tool(row))
                shared = 0 if row.prefix_reset else num_common_blocks(before, row.hash_ids)
            builder.add_turn(
                row.input_length,
                max(1, row.output_length),
                shared_prefix_tokens=shared * block_tokens,
                tool=None,
                pause_s=None,
                line=line,
            )
            before = row.hash_ids
    return builder.build(path.name.removesuffix(".gz").removesuffix(".jsonl"))


def _tool(row: Row) -> str:
    longest = max(row.tool_events, key=lambda event: event.duration_ms or 0.0, default=None)
    return "other" if longest is None else longest.tool_class
