"""A table of WEKA coding-agent requests without their hashes (see ``weka_json``).

Columns used: ``session_id`` (``<conversation>`` or ``<conversation>.<sub-agent>``),
``round_idx``, ``t_s``, ``input_tokens``, ``output_tokens``, ``shared_prefix_tokens``,
``api_time_s`` (may be empty), ``pause_s`` (the next request's think time; may be empty) and
``pause_kind`` (``tool``, ``human``, ``other`` or ``end``). Pauses are bounded as in
``weka_json``. There are no arrivals: the recordings share no clock.
"""

from __future__ import annotations

from pathlib import Path

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces.builder import TraceBuilder
from rlkv_envs.traces.csv_rows import parse_float, parse_int, read_named_csv
from rlkv_envs.traces.weka_json import bounded_pause_s

COLUMNS = (
    "session_id",
    "round_idx",
    "t_s",
    "input_tokens",
    "output_tokens",
    "shared_prefix_tokens",
    "api_time_s",
    "pause_s",
    "pause_kind",
)


def read(path: Path | str) -> Trace:
    """Reads a table, plain or gzip.

    Raises:
        InputError: with the file, the line and the reason.
    """
    path = Path(path)
    builder = TraceBuilder(path)
    session_id: str | None = None
    before_s = 0.0
    think_s: float | None = None
    service_s: float | None = None
    kind = "end"
    for line, row in read_named_csv(path, COLUMNS):
        start_s = parse_float(row["t_s"], "t_s", path=path, line=line)
        if row["session_id"] != session_id:
            session_id = row["session_id"]
            builder.start_session(session_id, root=session_id.split(".")[0], line=line)
        else:
            if start_s < before_s:
                raise InputError("starts before the request ahead of it", path=path, line=line)
            if kind == "end":
                raise InputError("a request follows pause_kind 'end'", path=path, line=line)
            builder.set_last_pause(bounded_pause_s(think_s, start_s - before_s, service_s), kind)
        round_index = parse_int(row["round_idx"], "round_idx", path=path, line=line)
        builder.expect_turn(round_index, line=line)
        builder.add_turn(
            parse_int(row["input_tokens"], "input_tokens", path=path, line=line),
            max(1, parse_int(row["output_tokens"], "output_tokens", path=path, line=line)),
            shared_prefix_tokens=parse_int(
                row["shared_prefix_tokens"], "shared_prefix_tokens", path=path, line=line
            ),
            tool=None,
            pause_s=None,
            line=line,
        )
        before_s, kind = start_s, row["pause_kind"]
        think_s, service_s = (
            parse_float(row[name], name, path=path, line=line) if row[name] else None
            for name in ("pause_s", "api_time_s")
        )
        if kind not in ("tool", "human", "other", "end"):
            reason = f"pause_kind must be tool, human, other or end, got {kind!r}"
            raise InputError(reason, path=path, line=line)
    return builder.build(path.name.removesuffix(".gz").removesuffix(".csv"))
