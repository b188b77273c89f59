from __future__ import annotations

from typing import Annotated

import typer

from rlkv import __version__
from rlkv.cli import bench, pauses, profiles, report, trace, train, validate, workloads
from rlkv.cli import eval as eval_cli

#: One module per command, in the order of ``rlkv --help``. Each has ``register(app)``, and imports
#: what is slow to import (torch, numba, matplotlib) inside its commands only.
COMMANDS = (train, eval_cli, profiles, workloads, trace, pauses, report, validate, bench)


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
