"""The command line of rlkv."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rlkv_engine.errors import RlkvError

#: Exit code of a run that the user interrupted: 128 + SIGINT, as shells have it.
INTERRUPTED = 130


def main() -> NoReturn:
    """Runs the command line and exits: 0 done, 1 failed, 2 unusable input, 130 interrupted."""
    try:
        try:
            from rlkv.cli.app import run_app
        except ModuleNotFoundError as error:
            if error.name not in ("typer", "rich"):
                raise
            sys.exit(f"error: the command line needs {error.name}: pip install 'rlkv[train]'")
        with _sigterm_interrupts():
            sys.exit(run_app())
    except RlkvError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    # As Ctrl-C: what has started, worker processes above all, is stopped too.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
