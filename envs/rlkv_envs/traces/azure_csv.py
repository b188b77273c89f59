"""Azure LLM inference traces: ``TIMESTAMP,ContextTokens,GeneratedTokens``, one request a row.

There are no sessions in them: each request becomes a session of one turn. Arrivals count from
the first row.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.traces.builder import TraceBuilder
from rlkv_envs.traces.csv_rows import parse_int, read_named_csv

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(path: Path | str) -> Trace:
    """Reads a table, plain or gzip.

    Raises:
        InputError: with the file, the line and the reason.
    """
    path = Path(path)
    builder = TraceBuilder(path)
    first_s: float | None = None
    for line, row in read_named_csv(path, COLUMNS):
        stamp_s = _seconds(row["TIMESTAMP"], path, line)
        first_s = stamp_s if first_s is None else first_s
        builder.start_session(f"r{line:07}", arrival_s=stamp_s - first_s, line=line)
        builder.add_turn(
            parse_int(row["ContextTokens"], "ContextTokens", path=path, line=line),
            parse_int(row["GeneratedTokens"], "GeneratedTokens", path=path, line=line),
            shared_prefix_tokens=0,
            tool=None,
            pause_s=None,
            line=line,
        )
    return builder.build(path.name.removesuffix(".gz").removesuffix(".csv"))


def _seconds(stamp: str, path: Path, line: int) -> float:
    """Seconds since 1970 of ``2023-11-16 18:15:46.6805900`` (any number of decimals), as UTC."""
    whole, _, decimals = stamp.partition(".")
    try:
        seconds = datetime.fromisoformat(whole.strip()).replace(tzinfo=UTC).timestamp()
        if decimals and not decimals.isdecimal():
            raise ValueError(decimals)
        return seconds + float(f"0.{decimals[:9] or 0}")
    except (ValueError, OverflowError) as error:
        reason = f"TIMESTAMP must look like 2023-11-16 18:15:46.68, got {stamp[:40]!r}"
        raise InputError(reason, path=path, line=line) from error
