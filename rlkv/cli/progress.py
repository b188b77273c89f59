"""Progress bars of long work, on standard error, with an estimate of the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlkv_agents.train import OnProgress

_TITLES = {
    "tune": "tuning the rules",
    "train": "learning",
    "specialists": "specialists",
    "candidates": "rules of a kind",
    "teachers": "teachers",
    "distil": "distilling",
    "confidence": "confidence",
    "calibrate": "calibrating",
    "explain": "explaining",
    "eval": "held-out traces",
    "sweep": "load sweep",
    "knees": "knees",
    "plan": "short searches",
    "plan on": "long searches",
    "compare": "plans and rule",
}


@contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Yields ``on_progress(stage, done, total)``; each stage gets a bar when it begins."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def on_progress(stage: str, done: int, total: int) -> None:
        if not tasks:
            progress.start()
        if stage not in tasks:
            tasks[stage] = progress.add_task(_TITLES.get(stage, stage), total=total)
        progress.update(tasks[stage], completed=done, total=total)

    try:
        yield on_progress
    finally:
        # Nothing is printed where nothing was begun: an error that comes first stands alone.
        if tasks:
            progress.stop()
