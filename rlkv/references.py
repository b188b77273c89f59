"""Curves of the other recipes, which a learning curve is shown beside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from rlkv.provenance import commit, machine
from rlkv_agents.checkpoint import CurvePoint
from rlkv_agents.learning_curve import learning_curve
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.run_settings import run_settings
from rlkv_agents.train import (
    RECIPES,
    START_RULE,
    VALIDATE_EVERY,
    OnProgress,
    tune_all,
    tuned_policies,
)
from rlkv_agents.tune import validation_traces
from rlkv_engine.errors import InputError
from rlkv_envs.scenario import Scenario, load_scenario
from rlkv_envs.traces.whole_file import write_files

#: Curves measured once on the default scenario, so that its picture has them at no cost.
STORED = "reference_curves.json"
STORED_SCENARIO, STORED_CPU_S = "crossover-slow", 100.0
#: What must be equal for stored curves to belong to a run.
_SAME = ("scenario", "rate_per_s", "num_sessions", "profile_sha256", "sessions_sha256")


def measure_references(
    scenario: Scenario,
    start: AgentPolicy,
    recipes: Iterable[str],
    seed: int,
    budget_s: float,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Trains recipes for so many CPU seconds each, from a rule with its tuned constants.

    Returns:
        By recipe ``curve`` (as ``Progress.curve``), ``commit``, ``machine``, and ``earlier``
        (False); for a recipe that cannot learn there an empty curve and the ``reason``.
    """
    traces = validation_traces(scenario)
    found: dict[str, Any] = {}
    for recipe in recipes:

        def tell(point: CurvePoint, stage: str = f"{recipe}, for reference") -> None:
            on_progress(stage, min(int(point["cpu_s"]), int(budget_s)), max(int(budget_s), 1))

        entry = {"commit": commit(), "machine": machine(), "earlier": False}
        try:
            curve = learning_curve(
                scenario,
                start,
                recipe,
                seed,
                traces,
                is_enough=lambda point: point["cpu_s"] >= budget_s,
                validate_every=VALIDATE_EVERY,
                on_point=tell,
            )
            found[recipe] = entry | {"curve": curve}
        except InputError as error:
            # What the run itself has learnt must not be lost for it.
            found[recipe] = entry | {"curve": [], "reason": str(error)}
    return found


def stored_references(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Curves of the other recipes measured earlier on the same scenario; empty if there are none.

    ``settings`` are those of the run (``train.run_settings``).
    """
    stored = json.loads(files("rlkv").joinpath(STORED).read_text(encoding="utf-8"))
    if any(stored["settings"].get(name) != settings[name] for name in _SAME):
        return {}
    return {
        recipe: {**entry, "earlier": True}
        for recipe, entry in stored["curves"].items()
        if recipe != settings["recipe"]
    }


def store(
    scenario: Scenario,
    path: Path,
    budget_s: float,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> None:
    """Measures every recipe on a scenario and writes what ``stored_references`` reads.

    Raises:
        InputError: the file cannot be written.
    """
    (start,) = tuned_policies(tune_all(scenario, [START_RULE], on_progress))
    curves = measure_references(scenario, start, RECIPES, 0, budget_s, on_progress)
    for entry in curves.values():
        del entry["earlier"]
        for point in entry["curve"]:
            point["cpu_s"] = round(point["cpu_s"], 2)
    settings = run_settings(scenario, "", 0)
    document = {
        "settings": {name: settings[name] for name in (*_SAME, "seed")},
        "command": "python -m rlkv.references",
        "budget_cpu_s": budget_s,
        "curves": curves,
    }
    write_files(path.parent, {path.name: (json.dumps(document, indent=1) + "\n").encode()})


def main() -> None:
    """Measures the stored curves again: some minutes."""
    import torch

    from rlkv.cli.progress import progress_bars

    torch.set_num_threads(1)
    with progress_bars() as on_progress:
        path = Path(__file__).with_name(STORED)
        store(load_scenario(STORED_SCENARIO), path, STORED_CPU_S, on_progress)


if __name__ == "__main__":
    main()
