"""Loads the parameter tables that ship with the workloads."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def load_parameters(name: str) -> dict[str, Any]:
    """The table ``data/<name>.toml``; each number there stands next to its source.

    Callers must not change it.
    """
    data = files("rlkv_envs.workloads").joinpath("data", f"{name}.toml").read_bytes()
    return tomllib.loads(data.decode())
