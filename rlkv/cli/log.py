"""``rlkv log``: what was decided and what came of it, exported or in figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlkv.cli.output import AsJson, check_writable, check_writable_file
from rlkv.cli.server_place import (
    DEFAULT_DATA_DIR,
    REDIS_VARIABLE,
    check_one_place,
    is_said,
)
from rlkv_engine.errors import InputError

if TYPE_CHECKING:
    from rlkv_service.decision_log.log_reader import LogReader, LogWindow

#: Where ``log export`` writes if nothing else is said.
DEFAULT_OUT = Path("rlkv-log")

Redis = Annotated[
    str | None,
    typer.Option(
        "--redis",
        envvar=REDIS_VARIABLE,
        help="The server: redis://, rediss:// or unix://, as of rlkv serve.",
    ),
]
DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        help="Folder of rlkv serve's own server, without --redis; where it does not run, it does"
        " for the time being.",
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", help="Of the deployment.")]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        help="From then on: a time such as 2026-01-31T12:00 (UTC unless it says otherwise), or so"
        " long ago: 90s, 30m, 12h, 7d.",
    ),
]
Until = Annotated[str | None, typer.Option("--until", help="Before then, likewise.")]
Engine = Annotated[str | None, typer.Option("--engine", help="Of this engine alone.")]


def register(app: typer.Typer) -> None:
    """Adds ``log export`` and ``log stats``."""
    log = typer.Typer(
        no_args_is_help=True, help="The log of decisions and outcomes: export it, or show figures."
    )
    log.command("export")(export)
    log.command("stats")(stats)
    app.add_typer(log, name="log")


def export(
    context: typer.Context,
    redis: Redis = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    namespace: Namespace = "default",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of decisions.parquet and outcomes.parquet."
            f"  [default: {DEFAULT_OUT}, without --as-trace]"
        ),
    ] = None,
    as_trace: Annotated[
        Path | None,
        typer.Option(
            "--as-trace", help="Write the sessions as a trace to this file (see rlkv trace)."
        ),
    ] = None,
    since: Since = None,
    until: Until = None,
    engine: Engine = None,
    as_json: AsJson = False,
) -> None:
    """Write the log as Parquet, the sessions in it as a trace, or both."""
    from dataclasses import asdict

    from rlkv.log_traces import write_log_trace
    from rlkv_service.decision_log.parquet_export import export_log
    from rlkv_service.redis_url import RedisURL

    window = _window(since, until, engine)
    if out is None and as_trace is None:
        out = DEFAULT_OUT
    url, folder = _place(context, redis, data_dir)
    if as_trace is not None:
        check_writable_file(as_trace)
    if out is not None:
        check_writable(out)
    figures: dict[str, int] = {}
    with _reader(url, folder, namespace, window) as reader:
        if out is not None:
            figures |= asdict(export_log(reader, out))
        if as_trace is not None:
            place = RedisURL.parse(url) if url else folder  # without the password
            counts = write_log_trace(reader.outcomes(), as_trace, str(place))
            figures |= counts.as_json()
    if as_json:
        typer.echo(json.dumps(figures))
        return
    if out is not None:
        typer.echo(
            f"{out}: {figures['num_decisions']:,} decisions of {figures['num_requests']:,}"
            f" requests, {figures['num_outcomes']:,} outcomes, {figures['num_ends']:,} ends"
        )
        if figures["num_unreadable"]:
            typer.echo(f"{figures['num_unreadable']:,} entries could not be read", err=True)
    if as_trace is not None:
        typer.echo(f"{as_trace}: {counts.summary()}")


def stats(
    context: typer.Context,
    redis: Redis = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    namespace: Namespace = "default",
    since: Since = None,
    until: Until = None,
    engine: Engine = None,
    as_json: AsJson = False,
) -> None:
    """Show who decided what and why, and what came of it."""
    from rlkv_service.decision_log.log_statistics import log_statistics

    window = _window(since, until, engine)
    with _reader(*_place(context, redis, data_dir), namespace, window) as reader:
        figures = log_statistics(reader)
    if as_json:
        typer.echo(json.dumps(figures))
        return
    from rich.console import Console

    from rlkv.log_tables import log_tables

    Console().print(log_tables(figures))


def _place(
    context: typer.Context, redis: str | None, data_dir: Path
) -> tuple[str | None, Path | None]:
    """The server or the folder that has the log."""
    check_one_place(context)
    if redis and not is_said(context, "data_dir"):
        return redis, None
    return None, data_dir


@contextmanager
def _reader(
    redis: str | None, data_dir: Path | None, namespace: str, window: LogWindow
) -> Iterator[LogReader]:
    from rlkv.cli.progress import progress_bars
    from rlkv_service.decision_log.log_reader import LogReader
    from rlkv_service.decision_log.log_source import open_log
    from rlkv_service.redis_keys import RedisKeys

    keys = RedisKeys(namespace)
    with open_log(redis, data_dir) as connection, progress_bars() as on_progress:
        num_decisions, num_outcomes = LogReader(connection, keys).num_entries()
        total = {"decisions": num_decisions, "outcomes": num_outcomes}

        def on_entries(stream: str, done: int, ended: bool) -> None:
            on_progress(stream, done, done if ended else max(done, total[stream]))

        yield LogReader(connection, keys, window, on_entries)


def _window(since: str | None, until: str | None, engine: str | None) -> LogWindow:
    from rlkv_service.decision_log.log_reader import LogWindow

    since_s, until_s = _moment_s(since, "--since"), _moment_s(until, "--until")
    if since_s is not None and until_s is not None and since_s >= until_s:
        raise InputError(f"--since {since} is not before --until {until}")
    return LogWindow(since_s, until_s, engine)


def _moment_s(said: str | None, option: str) -> float | None:
    import re
    import time
    from datetime import UTC, datetime

    if said is None:
        return None
    ago = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd])", said)
    if ago:
        return time.time() - float(ago[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[ago[2]]
    try:
        moment = datetime.fromisoformat(said)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{option}: {said!r} is neither a time such as 2026-01-31T12:00 nor so long ago: 12h"
        ) from error
