"""Curves of the other recipes, which a learning curve is shown beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from rlkv.provenance import commit, machine
from rlkv.report.record import read_record
from rlkv_agents.checkpoint import CurvePoint, Progress
from rlkv_agents.learning_curve import learning_curve
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.train import RECIPES, OnProgress
from rlkv_agents.tune import validation_traces
from rlkv_envs.scenario import Scenario
from rlkv_envs.traces.whole_file import write_files

#: Curves measured once on the default scenario, so that its picture has them at no cost.
STORED = "reference_curves.json"
#: What must be equal for stored curves to belong to a run.
_SAME = ("scenario", "rate_per_s", "num_sessions", "profile_sha256", "sessions_sha256")


def measure_references(
    scenario: Scenario, start: AgentPolicy, progress: Progress, on_progress: OnProgress
) -> dict[str, Any]:
    """Trains every other recipe for the CPU seconds that a run took, from the rule it started at.

    Returns:
        By recipe ``curve`` (as the run's own), ``commit``, ``machine`` and ``earlier`` (False).

    Raises:
        InputError: a session that the machine cannot hold.
    """
    traces = validation_traces(scenario)
    budget_s = progress.cpu_s
    found: dict[str, Any] = {}
    for recipe in RECIPES:
        if recipe == progress.settings["recipe"]:
            continue

        def tell(point: CurvePoint, recipe: str = recipe) -> None:
            done = min(int(point["cpu_s"]), int(budget_s))
            on_progress(f"{recipe}, for reference", done, max(int(budget_s), 1))

        curve = learning_curve(
            scenario,
            start,
            recipe,
            progress.settings["seed"],
            traces,
            is_enough=lambda point: point["cpu_s"] >= budget_s,
            on_point=tell,
        )
        found[recipe] = {
            "curve": curve, "commit": commit(), "machine": machine(), "earlier": False,
        }  # fmt: skip
    return found


def stored_references(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Curves of the other recipes measured earlier on the same scenario; empty if there are none.

    ``settings`` are those of the run (``Progress.settings``).
    """
    stored = json.loads(files("rlkv").joinpath(STORED).read_text(encoding="utf-8"))
    if any(stored["settings"].get(name) != settings[name] for name in _SAME):
        return {}
    return {
        recipe: {**entry, "earlier": True}
        for recipe, entry in stored["curves"].items()
        if recipe != settings["recipe"]
    }


def store(run: Path, path: Path) -> None:
    """Makes the stored file from a run of ``rlkv train --references``."""
    record: Any = read_record(run)
    progress = json.loads((run / "checkpoint" / "progress.json").read_bytes())
    own = {key: record[key] for key in ("commit", "machine")}
    curves = {progress["settings"]["recipe"]: {"curve": record["learning_curve"], **own}}
    curves |= {
        name: {key: value for key, value in entry.items() if key != "earlier"}
        for name, entry in record["reference_curves"].items()
    }
    settings = {name: progress["settings"][name] for name in (*_SAME, "seed")}
    document = {"settings": settings, "command": record["command"], "curves": curves}
    write_files(path.parent, {path.name: (json.dumps(document, indent=1) + "\n").encode()})


if __name__ == "__main__":
    import sys

    store(Path(sys.argv[1]), Path(__file__).with_name(STORED))
