"""``rlkv token``: who may ask the decision API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlkv_service.decision_api.tokens import add_token

#: Where ``token new`` writes if nothing else is said.
DEFAULT_TOKEN_FILE = Path("tokens")


def register(app: typer.Typer) -> None:
    """Adds ``token new``."""
    group = typer.Typer(no_args_is_help=True, help="Who may ask the decision API.")
    group.command("new")(new_command)
    # Another one beside it would be a command by itself without this.
    group.callback()(lambda: None)
    app.add_typer(group, name="token")


def new_command(
    name: Annotated[str, typer.Argument(help="Whose it is: letters, digits and ._@-.")],
    file: Annotated[
        Path, typer.Option(help="Where its hash goes; rlkv serve --token-file reads it.")
    ] = DEFAULT_TOKEN_FILE,
    requests_per_s: Annotated[
        float | None, typer.Option(help="How often it may ask; without it, as the server says.")
    ] = None,
) -> None:
    """Make a token, print it once, and keep its hash; a running server takes it at once."""
    typer.echo(add_token(file, name, requests_per_s))
    typer.echo(f"its hash is in {file}; the token itself is nowhere: keep it", err=True)
