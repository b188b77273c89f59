"""The record of ``rlkv suite ceiling``: ceilings, marks, and the share each policy closes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkv.ceiling_tables import ceiling_markdown
from rlkv.experiment import held_out_record
from rlkv.report.ceiling_picture import draw_ceiling_picture
from rlkv_agents.ceiling import Effort
from rlkv_agents.contestants import REFERENCE
from rlkv_agents.gap import gap_closed
from rlkv_agents.orientation import EMPTY, UNLIMITED
from rlkv_agents.rules import constants_of
from rlkv_agents.suite import Evaluation
from rlkv_agents.suite_regret import ratio_of_means
from rlkv_envs.traces.whole_file import write_files

RECORD_NAME, TABLES_NAME, PICTURE_NAME = "ceiling.json", "ceiling.md", "ceiling.png"
#: What of each policy's figures the record keeps.
_Latencies = dict[str, list[float]]


def ceiling_record(
    evaluations: Sequence[Evaluation],
    marks: Sequence[Evaluation],
    figures: Mapping[tuple[str, ...], Mapping[str, Any]],
    plans: Mapping[str, Sequence[Mapping[str, Any]]],
    learned: Sequence[str],
    seeds: Sequence[int],
    effort: Effort,
) -> dict[str, Any]:
    """Everything about every scenario, from what was measured.

    A trace's ceiling is the cheapest of its plan and of every policy that ran on it, those that
    see the future among them: so no policy closes more than the whole gap.
    """
    names = list(dict.fromkeys(each.setting.scenario.name for each in evaluations))
    suite_of = {each.setting.scenario.name: each.setting.suite for each in evaluations}
    scenarios = {}
    for name in names:
        parts = [each for each in evaluations if each.setting.scenario.name == name]
        own_marks = {
            each.key[1]: list(figures[each.key]["mean_by_seed_s"])
            for each in marks
            if each.key[0] == name
        }
        scenarios[name] = {
            "suite": suite_of[name],
            **_scenario(parts, figures, plans[name], own_marks, learned),
        }
    return held_out_record(
        seeds,
        arrivals=evaluations[0].setting.arrivals,
        reference=REFERENCE,
        learned=list(learned),
        effort={"level": effort.level, "points": list(effort.points), "seed": effort.seed},
        scenarios=scenarios,
    )


def write_ceiling(record: dict[str, Any], folder: Path) -> None:
    """Writes the record, its tables as Markdown and its picture, all of them or none."""
    files = {
        TABLES_NAME: ceiling_markdown(record).encode(),
        PICTURE_NAME: draw_ceiling_picture(record),
        RECORD_NAME: (json.dumps(record, indent=1, allow_nan=False) + "\n").encode(),
    }
    write_files(folder, files)


def _scenario(
    parts: Sequence[Evaluation],
    figures: Mapping[tuple[str, ...], Mapping[str, Any]],
    plans: Sequence[Mapping[str, Any]],
    marks: Mapping[str, list[float]],
    learned: Sequence[str],
) -> dict[str, Any]:
    latency_s: _Latencies = {
        each.policy.name: list(figures[each.key]["mean_by_seed_s"]) for each in parts
    }
    plan_s = [float(each["latency_s"]) for each in plans]
    rivals = [plan_s, *latency_s.values()]
    ceiling_s = [min(by_seed) for by_seed in zip(*rivals, strict=True)]
    reference_s = latency_s[REFERENCE]
    policies = {
        each.policy.name: {
            **_mean(latency_s[each.policy.name]),
            "gap_closed": gap_closed(latency_s[each.policy.name], reference_s, ceiling_s),
            "sees_future": each.policy.sees_future,
            "learned": each.policy.name in learned,
            "constants": constants_of(each.policy.rule),
        }
        for each in parts
    }
    return {
        "ceiling": {
            **_mean(ceiling_s),
            "ratio_to_reference": ratio_of_means(ceiling_s, reference_s),
            "num_traces_won_by_a_policy": sum(
                best < plan for best, plan in zip(ceiling_s, plan_s, strict=True)
            ),
        },
        "marks": {name: _mean(marks[name]) for name in (UNLIMITED, EMPTY)},
        "policies": policies,
        "plans": [{k: v for k, v in each.items() if k != "differences"} for each in plans],
        "differences": _added_up(row for each in plans for row in each["differences"]),
    }


def _mean(by_seed_s: Sequence[float]) -> dict[str, Any]:
    return {"mean_s": sum(by_seed_s) / len(by_seed_s), "mean_by_seed_s": list(by_seed_s)}


def _added_up(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    # Over all traces: counts, and means instead of sums.
    total: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        place = (row["point"], row["rule"], row["plan"])
        sums = total.setdefault(place, {})
        for name, value in row.items():
            if not isinstance(value, str):
                sums[name] = sums.get(name, 0.0) + value
    return [
        {
            "point": point,
            "rule": rule,
            "plan": plan,
            "count": int(sums["count"]),
            **{name: value / sums["count"] for name, value in sums.items() if name != "count"},
        }
        for (point, rule, plan), sums in total.items()
    ]
