"""Records of the suite: one of ``rlkv eval`` for each scenario, and the regret over all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkv.experiment import held_out_record, record_head
from rlkv.provenance import command, commit, machine
from rlkv.report.record import FILE_NAME, check_record
from rlkv.report.suite_picture import draw_suite_picture
from rlkv.suite_tables import (
    ablation_markdown,
    suite_markdown,
    sustained_markdown,
    training_markdown,
)
from rlkv_agents.ablation import FULL
from rlkv_agents.contestants import REFERENCE, Contestant
from rlkv_agents.rules import constants_of
from rlkv_agents.suite import Evaluation
from rlkv_agents.suite_regret import ratio_of_means, suite_regret
from rlkv_agents.train import LEARNED, ORDERED
from rlkv_envs.traces.whole_file import write_files

PICTURE_NAME, TABLES_NAME = "suite.png", "suite.md"
KNEES_NAME, KNEES_TABLE_NAME = "knees.json", "knees.md"
ABLATION_NAME, MECHANISMS_NAME = "ablation.json", "mechanisms.md"
TRAINING_NAME, TRAINING_TABLE_NAME = "training.json", "training.md"


def suite_record(
    evaluations: Sequence[Evaluation],
    figures: Mapping[tuple[str, ...], Mapping[str, Any]],
    contestants: Sequence[Contestant],
    seeds: Sequence[int],
    inputs: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The first scenario's record with the others in ``also``, and ``suite`` over all of them.

    ``inputs`` are what each scenario's replay needs. ``suite`` holds ``arrivals``, the names of
    the ``learned`` policies, the suite of each scenario, and what ``suite_regret`` returns.
    """
    learned = [each.name for each in contestants if each.is_learned]
    by_scenario: dict[str, list[Evaluation]] = {}
    for each in evaluations:
        by_scenario.setdefault(each.setting.scenario.name, []).append(each)
    records = [
        {**_scenario_record(parts, figures, learned, seeds), **inputs[name]}
        for name, parts in by_scenario.items()
    ]
    latency_s = {
        record["scenario"]: {
            name: entry["mean_by_seed_s"] for name, entry in record["policies"].items()
        }
        for record in records
    }
    suite_of = {name: parts[0].setting.suite for name, parts in by_scenario.items()}
    suite = {
        "arrivals": evaluations[0].setting.arrivals,
        "learned": learned,
        "suite_of": suite_of,
        **suite_regret(latency_s, suite_of, REFERENCE),
    }
    origin = {"commit": commit(), "command": command(), "machine": machine()}
    return {**records[0], **origin, "suite": suite, "also": records[1:]}


def write_suite(record: dict[str, Any], folder: Path) -> None:
    """Writes the record, its picture and its tables as Markdown, all of them or none."""
    check_record(record, folder / FILE_NAME)
    files = {
        PICTURE_NAME: draw_suite_picture(record),
        TABLES_NAME: suite_markdown(record).encode(),
        FILE_NAME: (json.dumps(record, indent=1) + "\n").encode(),
    }
    write_files(folder, files)


def ablation_record(found: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """What ``ablation.ablate`` found, with where it comes from."""
    return held_out_record(seeds, full_rule=FULL, **found)


def write_ablation(record: dict[str, Any], folder: Path) -> None:
    """Writes the record and its table as Markdown."""
    _write(folder, ABLATION_NAME, record, MECHANISMS_NAME, ablation_markdown(record))


def knees_record(machines: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """What ``knee_contest.sustained_rates`` found, with where it comes from."""
    return held_out_record(seeds, machines=machines)


def write_knees(record: dict[str, Any], folder: Path) -> None:
    """Writes the record and its table as Markdown."""
    _write(folder, KNEES_NAME, record, KNEES_TABLE_NAME, sustained_markdown(record))


def training_record(
    found: Mapping[tuple[str, ...], Mapping[str, Any]], seeds: Sequence[int]
) -> dict[str, Any]:
    """What ``train_contest.train_all`` found, as ratios to the tuned rule, with its origin.

    ``machines``: scenario -> warm start -> training seed -> ``learned`` and ``learned-order``
    (``ratio`` and ``ci95``), ``learned_by``, ``cpu_s`` and ``mean_by_seed_s``.
    """
    machines: dict[str, Any] = {}
    for (scenario, warm_start, train_seed), each in found.items():
        latency_s = each["mean_by_seed_s"]
        machines.setdefault(scenario, {}).setdefault(warm_start, {})[train_seed] = {
            name: ratio_of_means(latency_s[name], latency_s[REFERENCE])
            for name in (LEARNED, ORDERED)
        } | dict(each)
    return held_out_record(seeds, machines=machines)


def write_training(record: dict[str, Any], folder: Path) -> None:
    """Writes the record and its table as Markdown."""
    _write(folder, TRAINING_NAME, record, TRAINING_TABLE_NAME, training_markdown(record))


def _write(folder: Path, name: str, record: dict[str, Any], table_name: str, table: str) -> None:
    text = json.dumps(record, indent=1) + "\n"
    write_files(folder, {table_name: table.encode(), name: text.encode()})


def _scenario_record(
    parts: Sequence[Evaluation],
    figures: Mapping[tuple[str, ...], Mapping[str, Any]],
    learned: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, Any]:
    scenario = parts[0].setting.scenario
    entries: dict[str, dict[str, Any]] = {}
    for part in parts:
        rule = part.policy.rule
        entries[part.policy.name] = {
            **figures[part.key],
            "rule": rule.name,
            "source": "learned" if part.policy.name in learned else rule.source,
            "constants": constants_of(rule),
            "sees_future": part.policy.sees_future,
        }
    rules = [
        name for name, entry in entries.items() if name not in learned and not entry["sees_future"]
    ]
    best = min(rules, key=lambda name: float(entries[name]["normalized_latency_s"]["mean"]))
    best_s = entries[best]["mean_by_seed_s"]
    for entry in entries.values():
        entry["ratio_to_best_rule"] = ratio_of_means(entry["mean_by_seed_s"], best_s)
    return {
        **record_head(scenario, "test", seeds),
        "policies": entries,
        "learned": learned[0] if learned else None,
        "best_rule": best,
    }
