"""``rlkv profiles``: the machines that rlkv knows, and where each of their numbers comes from."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlkv.cli.output import AsJson
from rlkv_engine.profile import Profile, load_profile, shipped_profiles


def register(app: typer.Typer) -> None:
    """Adds ``profiles list`` and ``profiles show``."""
    profiles = typer.Typer(
        no_args_is_help=True, help="Measured or derived costs of one model on one machine."
    )
    profiles.command("list")(list_profiles)
    profiles.command("show")(show_profile)
    app.add_typer(profiles, name="profiles")


def list_profiles(as_json: AsJson = False) -> None:
    """List the shipped profiles."""
    loaded = [load_profile(name) for name in shipped_profiles()]
    if as_json:
        typer.echo(json.dumps([{"name": p.name, "description": p.description} for p in loaded]))
        return
    table = Table(box=SIMPLE)
    table.add_column("profile", no_wrap=True)
    table.add_column("device tokens", justify="right")
    table.add_column("host / device", justify="right")
    table.add_column("link GB/s", justify="right")
    for profile in loaded:
        table.add_row(
            profile.name,
            f"{profile.device_tokens:,}",
            f"{profile.num_host_blocks / profile.num_device_blocks:.2f}",
            f"{profile.swap_out_bytes_per_s / 1e9:.4g}",
        )
    Console().print(table)


def show_profile(
    name: Annotated[
        str,
        typer.Argument(
            help="A shipped profile, with +host0.5 or +link0.125 to scale it, or a .toml file."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show every number of a profile with its unit and its source."""
    profile = load_profile(name)
    if as_json:
        typer.echo(json.dumps(asdict(profile)))
        return
    Console().print(_table(profile))


def _table(profile: Profile) -> Table:
    """One row per number of the profile: value, unit, source."""
    table = Table("field", box=SIMPLE, title=Text(profile.name), caption=Text(profile.description))
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("source")
    for spec in fields(profile):
        if "unit" not in spec.metadata:
            continue
        value = getattr(profile, spec.name)
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        source = Text(profile.sources.get(spec.name, ""))
        table.add_row(spec.name, shown, spec.metadata["unit"], source)
    return table
