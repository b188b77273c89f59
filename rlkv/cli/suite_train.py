"""``rlkv suite train``: what training for one machine brings, seed by seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlkv.cli.output import AsJson, check_writable, show_record
from rlkv.cli.suite_options import OutFolder, Scenarios, Seeds, Workers, checked
from rlkv_agents.shipped import NO_BUNDLE, UNIVERSAL
from rlkv_engine.errors import InputError

#: Machines that one policy each is trained for unless others are named.
MACHINES = "coding,crossover,crossover-tiny-host,crossover-slow"


def train(
    out: OutFolder,
    scenarios: Scenarios = MACHINES,
    train_seeds: Annotated[
        str, typer.Option(help="Seeds of training, with commas between.")
    ] = "0,1,2",
    warm_start: Annotated[
        list[str],
        typer.Option(
            help="As of rlkv train: none, universal, or a bundle; may be given several times."
        ),
    ] = [NO_BUNDLE, UNIVERSAL],  # noqa: B006
    seeds: Seeds = 16,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Train for each scenario with each seed, and compare what was saved with the tuned rule."""
    from rlkv.cli.progress import progress_bars
    from rlkv.suite_record import training_record, write_training
    from rlkv.suite_tables import training_tables
    from rlkv_agents.suite import suite_names
    from rlkv_agents.train_contest import train_all
    from rlkv_envs.scenario import load_scenario

    num_workers = checked(seeds, workers)
    chosen = _numbers(train_seeds)
    names = [Path(start).name for start in warm_start]
    if len(set(names)) < len(names):
        raise InputError(f"--warm-start: two of the same name among {', '.join(names)}")
    machines = [load_scenario(name) for name in suite_names(scenarios)]
    check_writable(out)
    with progress_bars() as on_progress:
        found = train_all(
            machines, warm_start, chosen, range(seeds), out, num_workers, on_progress
        )  # fmt: skip
    record = training_record(found, range(seeds))
    write_training(record, out)
    show_record(record, training_tables, as_json)


def _numbers(said: str) -> list[int]:
    try:
        numbers = [int(word) for word in said.split(",")]
    except ValueError:
        raise InputError(f"--train-seeds must be numbers with commas, got {said!r}") from None
    for number in numbers:
        if number < 0 or numbers.count(number) > 1:
            raise InputError(f"--train-seeds must be 0 or more, each once, got {said!r}")
    return numbers
