"""Traces of logged sessions, as files that train and replay like any other trace."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rlkv_service.decision_log.log_reader import OutcomeEntry
    from rlkv_service.decision_log.session_trace import SessionCounts

#: In the folder of a run that was trained from a log.
LOG_TRACE = "log-trace.jsonl"


def write_log_trace(entries: Iterable[OutcomeEntry], path: Path, source: str) -> SessionCounts:
    """Writes the sessions of a log to a file, whole or not at all.

    Args:
        entries: outcomes and ends.
        path: of the file.
        source: where the log is, for errors.

    Raises:
        InputError: too few sessions, with their number, or the file cannot be written.
    """
    from rlkv_envs.traces import write_trace
    from rlkv_service.decision_log.session_trace import trace_of_outcomes

    name = path.name.removesuffix(".jsonl")
    trace, counts = trace_of_outcomes(entries, name, path=source)
    write_trace(trace, path)
    return counts


def trace_from_log(source: str, folder: Path) -> tuple[Path, SessionCounts]:
    """The trace of a log, written into the folder of a run.

    Args:
        source: URL of a server (the namespace is the default one), a folder of ``log export`` or
            its file of outcomes, or the folder of an embedded server.
        folder: of the run.

    Raises:
        InputError: there is no log, or too few sessions in it.
        RlkvError: the server cannot be reached.
    """
    from rlkv_service.decision_log.log_reader import LogReader
    from rlkv_service.decision_log.log_source import open_log
    from rlkv_service.decision_log.parquet_export import read_outcomes
    from rlkv_service.embedded_valkey import holds_server_data
    from rlkv_service.redis_keys import RedisKeys
    from rlkv_service.redis_url import RedisURL

    path = folder / LOG_TRACE
    is_url = "://" in source
    # Without the password.
    place = str(RedisURL.parse(source)) if is_url else source
    if is_url or holds_server_data(Path(source)):
        with open_log(source if is_url else None, None if is_url else Path(source)) as connection:
            outcomes = LogReader(connection, RedisKeys()).outcomes()
            return path, write_log_trace(outcomes, path, place)
    if not Path(source).exists():
        raise InputError("no such folder of an export, and no URL", path=source)
    return path, write_log_trace(read_outcomes(Path(source)), path, place)
