"""Writes a log as Parquet, and reads the outcomes of such a folder back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from rlkv_engine.errors import InputError
from rlkv_envs.traces.whole_file import whole_file
from rlkv_service.decision_log.log_reader import LogReader, OutcomeEntry
from rlkv_service.schema import SCHEMA_VERSION, Outcome, SessionEnd, Verb

DECISIONS, OUTCOMES = "decisions.parquet", "outcomes.parquet"
#: Rows of a row group, about; what is in memory at a time.
GROUP_ROWS = 32_768
_NEEDED = "Parquet needs pyarrow, which comes with `pip install 'rlkv[sidecar]'`"
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What an export wrote."""

    num_requests: int
    num_decisions: int
    num_outcomes: int
    num_ends: int
    num_unreadable: int


def export_log(reader: LogReader, folder: Path) -> ExportCounts:
    """Writes ``decisions.parquet`` and ``outcomes.parquet``; both appear whole or not at all.

    Raises:
        InputError: the folder cannot be written to, or pyarrow is missing.
        RedisError: the server is gone, or refuses.
    """
    try:
        from rlkv_service.decision_log.parquet_columns import (
            DECISION_SCHEMA,
            OUTCOME_SCHEMA,
            decision_batch,
            outcome_batch,
        )
    except ImportError as error:
        raise InputError(_NEEDED) from error
    num = {"requests": 0, "decisions": 0, "outcome": 0, "end": 0}

    def decisions() -> Iterator[Any]:
        for group in _groups(reader.decisions(), lambda entry: len(entry.rows)):
            num["requests"] += len(group)
            num["decisions"] += sum(len(entry.rows) for entry in group)
            yield decision_batch(group)

    def outcomes() -> Iterator[Any]:
        for group in _groups(reader.outcomes(), lambda _: 1):
            is_end = [isinstance(entry.message, SessionEnd) for entry in group]
            num["end"] += sum(is_end)
            num["outcome"] += len(group) - sum(is_end)
            yield outcome_batch(group)

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", path=folder) from error
    with ExitStack() as stack:
        # Neither takes its place before both are written.
        last, first = (
            stack.enter_context(whole_file(folder / name)) for name in (OUTCOMES, DECISIONS)
        )
        _write(first, DECISION_SCHEMA, decisions())
        _write(last, OUTCOME_SCHEMA, outcomes())
    return ExportCounts(
        num["requests"], num["decisions"], num["outcome"], num["end"], reader.num_unreadable
    )


def read_outcomes(path: Path) -> Iterator[OutcomeEntry]:
    """The outcomes and ends of an export.

    Args:
        path: its folder, or its file of outcomes.

    Raises:
        InputError: there is none, it is damaged, or not of an export.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from rlkv_service.decision_log.parquet_columns import OUTCOME_SCHEMA
    except ImportError as error:
        raise InputError(_NEEDED) from error
    file = path / OUTCOMES if path.is_dir() else path
    try:
        with pq.ParquetFile(file) as parquet:
            missing = set(OUTCOME_SCHEMA.names) - set(parquet.schema_arrow.names)
            if missing:
                raise InputError(f"no column {min(missing)!r}: not an export's file", path=file)
            for batch in parquet.iter_batches(4096, columns=OUTCOME_SCHEMA.names):
                for row in batch.to_pylist():
                    yield _entry(row)
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", path=file) from error
    except (pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"not an export's file of outcomes: {reason}", path=file) from error


def _entry(row: dict[str, Any]) -> OutcomeEntry:
    at_s = row["at"].timestamp()
    is_end = row["kind"] == "end"
    verb = -1 if row["verb"] is None else int(Verb[row["verb"]])
    # Null is what an end does not have; an outcome has everything.
    fields = {name: value for name, value in row.items() if value is not None}
    fields |= {"v": SCHEMA_VERSION, "verb": verb, "type": "end" if is_end else "outcome"}
    message = msgspec.convert(fields, Outcome | SessionEnd)
    return OutcomeEntry(row["entry_id"], at_s, message)


def _groups(entries: Iterable[E], num_rows: Callable[[E], int]) -> Iterator[list[E]]:
    group: list[E] = []
    rows = 0
    for entry in entries:
        group.append(entry)
        rows += num_rows(entry)
        if rows >= GROUP_ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _write(stream: IO[bytes], schema: Any, batches: Iterator[Any]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
