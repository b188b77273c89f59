"""``rlkv suite ceiling``: how much better than the rules it can be done, and who comes how far."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rlkv.cli.output import AsJson, check_writable, show_record
from rlkv.cli.suite_options import OutFolder, Scenarios, Seeds, Workers, checked, settings_of


def ceiling(
    out: OutFolder,
    policies: Annotated[
        str, typer.Option(help="Rules with commas between, tuned for each scenario.")
    ] = "house,clairvoyant,min-waste-elapsed,lazy-swap,two-tier-lru,min-waste",
    bundle: Annotated[
        list[Path] | None,
        typer.Option(help="A trained bundle; may be given several times. Plans start there too."),
    ] = None,
    scenarios: Scenarios = "all",
    seeds: Seeds = 16,
    effort: Annotated[
        int,
        typer.Option(
            help="0: short searches, 1: longer ones from the best base, 2: all (3 times the time)."
        ),
    ] = 1,
    only: Annotated[
        str | None,
        typer.Option(help="Search these decisions alone: call, new, resume, grow, with commas."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the searches that try at random.")] = 0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Search the best plan of every trace, its future known; interrupted, it goes on."""
    from rlkv.ceiling_record import ceiling_record, write_ceiling
    from rlkv.ceiling_tables import ceiling_tables
    from rlkv.cli.progress import progress_bars
    from rlkv_agents.arrival_variants import DEFAULT
    from rlkv_agents.ceiling import Bases, Effort, find_ceilings
    from rlkv_agents.contestants import REFERENCE, contestants
    from rlkv_agents.house_rule import Clairvoyant
    from rlkv_agents.orientation import marks
    from rlkv_agents.plan_differences import POINTS
    from rlkv_agents.suite import contest, evaluate_all, suite_names, tune_settings

    num_workers = checked(seeds, workers)
    points = POINTS if only is None else tuple(word.strip().lower() for word in only.split(","))
    said = Effort(effort, points, seed)
    how = replace(said, points=tuple(point for point in POINTS if point in points))
    compared = contestants(
        policies if policies == "all" else f"{policies},{Clairvoyant.name}", bundle or []
    )
    names = suite_names(scenarios)
    check_writable(out)
    settings = settings_of(names, DEFAULT, None)
    rules = [each.name for each in compared if each.policy is None]
    learned = [each.name for each in compared if each.is_learned]
    with progress_bars() as on_progress:
        tuned = tune_settings(settings, rules, out, num_workers, on_progress)
        evaluations = contest(settings, compared, tuned)
        orientation = marks(settings, tuned)
        figures = evaluate_all(
            [*evaluations, *orientation], range(seeds), out, num_workers, on_progress
        )
        wanted = []
        for setting in settings:
            by_name = {e.policy.name: e.policy for e in evaluations if e.setting is setting}
            starts = [by_name[name] for name in (REFERENCE, Clairvoyant.name, *learned)]
            wanted.append(Bases(setting, starts, by_name[REFERENCE]))
        plans = find_ceilings(wanted, range(seeds), how, out, num_workers, on_progress)
    record = ceiling_record(evaluations, orientation, figures, plans, learned, range(seeds), how)
    write_ceiling(record, out)
    show_record(record, ceiling_tables, as_json)
