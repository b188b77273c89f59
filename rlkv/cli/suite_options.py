"""Options that the commands of ``rlkv suite`` share, and the settings that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlkv.cli.scenario_options import check_seeds

if TYPE_CHECKING:
    from rlkv_agents.suite import Setting

Scenarios = Annotated[
    str,
    typer.Option("--scenarios", help="trained, unseen, all, or names with commas between."),
]
Seeds = Annotated[int, typer.Option("--seeds", help="Paired held-out traces of each scenario.")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes; without it one for each core.")
]
OutFolder = Annotated[
    Path, typer.Option("--out", help="Folder of the results; finished parts in it are kept.")
]


def checked(seeds: int, workers: int | None) -> int:
    """The number of processes.

    Raises:
        InputError: fewer than one trace or process.
    """
    from rlkv_agents.jobs import check_workers

    check_seeds(seeds)
    return check_workers(workers)


def settings_of(names: list[str], arrivals: str, trace: Path | None) -> list[Setting]:
    """The scenarios of these names under these arrivals."""
    from rlkv_agents.arrival_variants import with_arrivals
    from rlkv_agents.suite import Setting
    from rlkv_envs.scenario import PRESETS, load_scenario

    kinds: dict[str, Any] = {name: PRESETS[name].suite for name in names}
    return [
        Setting(with_arrivals(load_scenario(name), arrivals, trace), kind, arrivals)
        for name, kind in kinds.items()
    ]
