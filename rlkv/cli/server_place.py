"""Where the Redis or Valkey server of a deployment is, as ``serve`` and what reads from it agree.

An option beats the environment; without any of them it is the server that ``rlkv serve`` starts.
"""

from __future__ import annotations

from pathlib import Path

import typer

from rlkv_engine.errors import InputError

REDIS_VARIABLE = "RLKV_REDIS"
#: Of the server that ``rlkv serve`` starts.
DEFAULT_DATA_DIR = Path("rlkv-data")


def is_said(context: typer.Context, option: str) -> bool:
    """Whether an option is on the command line itself."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def check_one_place(context: typer.Context) -> None:
    """Raises ``InputError`` where both ``--redis`` and ``--data-dir`` are on the command line."""
    if is_said(context, "redis") and is_said(context, "data_dir"):
        raise InputError("--redis and --data-dir both say where the server is: give one of them")
