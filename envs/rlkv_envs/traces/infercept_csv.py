"""The six-augmentation mixture in numbers: one row a segment (an LLM request).

Columns: ``request_id, augmentation, segment, n_segments, prompt_tokens, completion_tokens,
has_call, call_kind (tool or human), api_time_s, return_tokens``.

What the reader does with it:
  * The root is the part of ``request_id`` before ``_``: chatbot, image and tts reuse the same
    conversations, so a split by anything else leaks.
  * Only segment 0's ``prompt_tokens`` is a prompt; later ones repeat earlier text. A later
    prompt is the context so far plus ``return_tokens``, negative ones counted as 0.
  * The tool is the augmentation, or ``<augmentation>/human`` where a person is waited for.
  * A call after the last segment is dropped: nothing is generated after it.
  * There are no arrivals.
"""

from __future__ import annotations

from pathlib import Path

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces.builder import TraceBuilder
from rlkv_envs.traces.csv_rows import parse_float, parse_int, read_named_csv

COLUMNS = (
    "request_id",
    "augmentation",
    "segment",
    "n_segments",
    "prompt_tokens",
    "completion_tokens",
    "has_call",
    "call_kind",
    "api_time_s",
    "return_tokens",
)


def read(path: Path | str) -> Trace:
    """Reads a table, plain or gzip.

    Raises:
        InputError: with the file, the line and the reason.
    """
    path = Path(path)
    builder = TraceBuilder(path)
    session_id: str | None = None
    returned: int | None = None
    for line, row in read_named_csv(path, COLUMNS):
        segment = parse_int(row["segment"], "segment", path=path, line=line)
        num_segments = parse_int(row["n_segments"], "n_segments", path=path, line=line)
        if row["request_id"] != session_id:
            session_id = row["request_id"]
            builder.start_session(session_id, root=session_id.split("_")[0], line=line)
        elif returned is None:
            raise InputError("a segment follows one without a call", path=path, line=line)
        builder.expect_turn(segment, line=line)
        if segment >= num_segments:
            reason = f"segment {segment} of a request with n_segments {num_segments}"
            raise InputError(reason, path=path, line=line)
        context = builder.context_tokens
        prompt = parse_int(row["prompt_tokens"], "prompt_tokens", path=path, line=line)
        if row["has_call"] not in ("0", "1"):
            reason = f"has_call must be 0 or 1, got {row['has_call']!r}"
            raise InputError(reason, path=path, line=line)
        pause_s: float | None = None
        tool: str | None = None
        num_tokens = prompt if returned is None or segment == 0 else context + returned
        returned = None
        if row["has_call"] == "1":
            pause_s = parse_float(row["api_time_s"], "api_time_s", path=path, line=line)
            returned = max(
                0, parse_int(row["return_tokens"], "return_tokens", path=path, line=line)
            )
            tool = row["augmentation"]
            if row["call_kind"] == "human":
                tool += "/human"
            elif row["call_kind"] != "tool":
                reason = f"call_kind must be tool or human, got {row['call_kind']!r}"
                raise InputError(reason, path=path, line=line)
        builder.add_turn(
            num_tokens,
            parse_int(row["completion_tokens"], "completion_tokens", path=path, line=line),
            shared_prefix_tokens=context,
            tool=tool,
            pause_s=pause_s,
            line=line,
        )
    return builder.build(path.name.removesuffix(".gz").removesuffix(".csv"))
