"""Mooncake traces: one JSON object a request, without sessions.

A row is ``{"timestamp": ms, "input_length", "output_length", "hash_ids"}``; a hash id stands for
a block of 512 tokens and all blocks before it.

Sessions are inferred: a request continues the session whose latest prompt it extends, that is,
whose whole blocks are all at its beginning, when those are more than one block (the first block
is a system prompt that strangers share). Of several such sessions the longest prompt wins, and
each request is continued at most once: a second continuation begins a session of the same root.
What cannot be known:
  * ``pause_s`` is the time between the two requests. The service time in it is not recorded, so
    it is an upper bound. Stamps are quantised (to 3 s in the published conversation trace).
  * The tool is ``unknown``.
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

BLOCK_TOKENS = 512
#: Blocks that a continuation must share at least.
MIN_SHARED_BLOCKS = 2


class Row(msgspec.Struct):
    """One request."""

    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    input_length: Annotated[int, msgspec.Meta(ge=1, le=2**30)]
    output_length: Annotated[int, msgspec.Meta(ge=0, le=2**30)]
    hash_ids: list[int]


@dataclass(slots=True)
class _Session:
    """The turns found so far, and the hashes of the latest prompt."""

    hash_ids: list[int]
    root: str
    turns: list[tuple[float, int, int, int, int]] = field(default_factory=list)
    # (timestamp in ms, input, output, shared prefix, line)


def read(path: Path | str) -> Trace:
    """Reads a trace, plain or gzip, and infers its sessions.

    Raises:
        InputError: with the file, the line and the reason.
    """
    path = Path(path)
    decoder = msgspec.json.Decoder(Row)
    sessions: list[_Session] = []
    by_last_block: dict[int, _Session] = {}  # last whole block of the latest prompt -> session
    roots: dict[int, str] = {}  # last whole block of any prompt so far -> root
    latest_ms = 0.0
    for line, data in read_lines(path):
        row = decode_row(decoder, data, path, line)
        if row.timestamp < latest_ms:
            raise InputError("timestamps must be ascending", path=path, line=line)
        latest_ms = row.timestamp
        if -(-row.input_length // BLOCK_TOKENS) != len(row.hash_ids):
            expected = -(-row.input_length // BLOCK_TOKENS)
            reason = f"input_length {row.input_length} needs {expected} hash_ids"
            raise InputError(f"{reason}, got {len(row.hash_ids)}", path=path, line=line)
        session = _continued(row.hash_ids, by_last_block)
        shared = 0
        if session is None:
            known = (roots[block] for block in reversed(row.hash_ids) if block in roots)
            session = _Session(row.hash_ids, next(known, f"m{len(sessions):06}"))
            sessions.append(session)
        else:
            shared = BLOCK_TOKENS * num_common_blocks(session.hash_ids, row.hash_ids)
            session.hash_ids = row.hash_ids
        turn = (row.timestamp, row.input_length, max(1, row.output_length), shared, line)
        session.turns.append(turn)
        num_whole = row.input_length // BLOCK_TOKENS
        if num_whole >= MIN_SHARED_BLOCKS:
            by_last_block[row.hash_ids[num_whole - 1]] = session
            roots[row.hash_ids[num_whole - 1]] = session.root
    return _build(path, sessions)


def _continued(hash_ids: list[int], by_last_block: dict[int, _Session]) -> _Session | None:
    """The session this prompt extends, taken out of the index; None where there is none."""
    for position in range(len(hash_ids) - 1, MIN_SHARED_BLOCKS - 2, -1):
        session = by_last_block.get(hash_ids[position])
        if session is not None:
            del by_last_block[hash_ids[position]]
            return session
    return None


def _build(path: Path, sessions: list[_Session]) -> Trace:
    builder = TraceBuilder(path)
    for index, session in enumerate(sessions):
        arrival_s = session.turns[0][0] / 1000
        builder.start_session(
            f"m{index:06}", root=session.root, arrival_s=arrival_s, line=session.turns[0][4]
        )
        for turn, (stamp_ms, num_input, num_output, shared, line) in enumerate(session.turns):
            is_last = turn + 1 == len(session.turns)
            builder.add_turn(
                num_input,
                num_output,
                shared_prefix_tokens=shared,
                tool=None if is_last else "unknown",
                pause_s=None if is_last else (session.turns[turn + 1][0] - stamp_ms) / 1000,
                line=line,
            )
    return builder.build(path.name.removesuffix(".gz").removesuffix(".jsonl"))
