from __future__ import annotations

from typing import Annotated, Any

import typer

from rlkv import __version__
from rlkv.cli import (
    bench,
    bundle,
    calibrate,
    engine,
    explain,
    log,
    pauses,
    profiles,
    proxy,
    report,
    serve,
    suite,
    token,
    trace,
    train,
    validate,
    workloads,
)
from rlkv.cli import eval as eval_cli
from rlkv_engine.errors import InputError

#: One module per command, in the order of ``rlkv --help``. Each has ``register(app)``, and imports
#: what is slow to import (torch, numba, matplotlib) inside its commands only.
COMMANDS = (
    train, eval_cli, explain, suite, bundle, profiles, workloads, trace, pauses, log, report,
    validate, calibrate, engine, serve, proxy, token, bench,
)  # fmt: skip


#: What typer raises where the words of a command line do not make sense.
_UsageError: Any = typer.BadParameter.__base__


def run_app() -> int:
    """Runs the command line and returns its exit code.

    Raises:
        InputError: words that do not make sense, in one line as for all unusable input.
    """
    try:
        return build_app()(prog_name="rlkv", standalone_mode=False) or 0
    except _UsageError as error:
        reason = " ".join(error.format_message().split())
        if not reason:  # no command was given: the help has been printed
            return int(error.exit_code)
        command = error.ctx.command_path if error.ctx else "rlkv"
        raise InputError(f"{reason.rstrip('.')} (see {command} --help)") from error


def build_app() -> typer.Typer:
    """The command line with every command of ``COMMANDS``."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        # Errors meant for users are one line (see main); a bug shows its plain traceback.
        pretty_exceptions_enable=False,
        help="Decides what a serving engine does with the KV cache of an agent that waits for a"
        " tool: preserve, swap or discard.",
    )

    @app.callback()
    def rlkv(
        version: Annotated[
            bool,
            typer.Option(
                "--version", callback=_print_version, is_eager=True, help="Print the version."
            ),
        ] = False,
    ) -> None:
        pass

    for command in COMMANDS:
        command.register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit
