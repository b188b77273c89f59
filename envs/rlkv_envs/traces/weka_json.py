"""WEKA coding-agent sessions: one JSON document a conversation, or a folder of them.

Published at github.com/callanjfox/kv-cache-tester, traces/. A document has ``id``,
``block_size``, ``hash_id_scope`` and ``requests``; a request has its start ``t`` and
``think_time`` (seconds), ``in``, ``out``, ``hash_ids``, ``stop`` and mostly ``api_time``. A
request of type ``subagent`` holds the requests of a sub-agent, which becomes a session of its
own with the conversation as its root.

What the reader does with it:
  * ``shared_prefix_tokens`` is ``block_size`` times the common prefix of ``hash_ids`` with the
    request before. Hashes cover prompts only, so generated tokens never count as shared.
  * The pause before a request is its ``think_time``, but never more than the time that passed
    between the two requests: where the service time was not recorded, ``think_time`` counts from
    an earlier request and is far too long. Such pauses still contain the service time.
  * The tool is ``tool``, ``human`` or ``other`` by the stop reason; there are no tool names.
  * There are no arrivals: the recordings share no clock.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces.builder import TraceBuilder
from rlkv_envs.traces.hash_blocks import num_common_blocks
from rlkv_envs.traces.json_rows import decode_row
from rlkv_envs.traces.lines import read_document

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**30)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Request(msgspec.Struct, rename={"input_tokens": "in", "output_tokens": "out"}):
    """A request, or a sub-agent with requests of its own."""

    type: str
    t: _Seconds
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    hash_ids: list[int] | None = None
    stop: str | None = None
    api_time: _Seconds | None = None
    think_time: float | None = None
    agent_id: str | None = None
    requests: list[Request] | None = None


class Document(msgspec.Struct):
    """One conversation."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    block_size: Annotated[int, msgspec.Meta(ge=1, le=2**20)]
    requests: list[Request]


_TOOL_OF_STOP = {"tool_use": "tool", "end_turn": "human", "stop": "human"}


def tool_of_stop(stop: str | None) -> str:
    """What a session waits for after a request with this stop reason."""
    return _TOOL_OF_STOP.get(stop or "", "other")


def bounded_pause_s(think_s: float | None, elapsed_s: float, service_s: float | None) -> float:
    """Seconds paused between two requests; never more than passed between their starts.

    Without a service time, ``think_s`` counts from some earlier request; the elapsed time is
    then an upper bound.
    """
    longest_s = max(0.0, elapsed_s)
    if think_s is None:
        return max(0.0, longest_s - (service_s or 0.0))
    return min(max(0.0, think_s), longest_s)


def read(path: Path | str) -> Trace:
    """Reads one document or every ``*.json`` of a folder, each plain or gzip.

    Raises:
        InputError: with the file and the reason.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith((".json", ".json.gz")))
        if not files:
            raise InputError("no *.json files in the folder", path=path)
    builder = TraceBuilder(path)
    decoder = msgspec.json.Decoder(Document)
    for file in files:
        document = decode_row(decoder, read_document(file), file)
        _add_session(
            builder, file, document.id, document.id, document.block_size, document.requests
        )
    return builder.build(path.name.removesuffix(".gz").removesuffix(".json"))


def _add_session(
    builder: TraceBuilder,
    path: Path,
    session_id: str,
    root: str,
    block_size: int,
    requests: list[Request],
    depth: int = 0,
) -> None:
    """Adds a session and, after it, the sessions of its sub-agents."""
    subagents = [request for request in requests if request.requests is not None]
    turns = [request for request in requests if request.requests is None]
    if turns:
        builder.start_session(session_id, root=root)
    for index, turn in enumerate(turns):
        if turn.input_tokens is None or turn.output_tokens is None or turn.hash_ids is None:
            reason = f"request {index} of {session_id!r} lacks in, out or hash_ids"
            raise InputError(reason, path=path)
        shared, pause_s, tool = 0, None, None
        if index > 0:
            before = turns[index - 1].hash_ids or []
            shared = block_size * num_common_blocks(before, turn.hash_ids)
        if index + 1 < len(turns):
            following = turns[index + 1]
            elapsed_s = following.t - turn.t
            if elapsed_s < 0:
                reason = f"request {index + 1} of {session_id!r} starts before the one ahead of it"
                raise InputError(reason, path=path)
            pause_s = bounded_pause_s(following.think_time, elapsed_s, turn.api_time)
            tool = tool_of_stop(turn.stop)
        builder.add_turn(
            turn.input_tokens,
            max(1, turn.output_tokens),
            shared_prefix_tokens=shared,
            tool=tool,
            pause_s=pause_s,
            place=f"{path.name}: request {index} of {session_id!r}",
        )
    if depth > 8:
        raise InputError(f"sub-agents of {root!r} nested too deeply", path=path)
    for index, agent in enumerate(subagents):
        name = f"{session_id}.{agent.agent_id or f'agent_{index + 1:03}'}"
        _add_session(builder, path, name, root, block_size, agent.requests or [], depth + 1)
