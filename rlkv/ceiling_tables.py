"""The tables of the ceiling, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlkv.report.findings import digits, ms
from rlkv.suite_tables import NONE, Grid, fitted, markdown

if TYPE_CHECKING:
    from rich.table import Table

Cells = list[tuple[str, bool]]


def ceiling_tables(record: Mapping[str, Any], width: int) -> list[Table]:
    """Latencies, the share of the gap that each policy closes, and where plans differ."""
    return [table for grid in _grids(record) for table in fitted(grid, width)]


def ceiling_markdown(record: Mapping[str, Any]) -> str:
    """The same, as Markdown."""
    return "\n".join(markdown(grid) for grid in _grids(record))


def _grids(record: Mapping[str, Any]) -> list[Grid]:
    return [ceiling_grid(record), gap_grid(record), differences_grid(record)]


def ceiling_grid(record: Mapping[str, Any]) -> Grid:
    """A row for each scenario: the reference, the ceiling, their ratio, and the marks."""
    reference = record["reference"]
    scenarios = record["scenarios"]
    columns: dict[str, Cells] = {f"{reference}": [], "ceiling": [], "ratio": []}
    for found in scenarios.values():
        columns[reference].append((ms(found["policies"][reference]["mean_s"]), False))
        columns["ceiling"].append((ms(found["ceiling"]["mean_s"]), True))
        ratio = found["ceiling"]["ratio_to_reference"]
        low, high = ratio["ci95"]
        columns["ratio"].append((f"{digits(ratio['ratio'])}x\n{digits(low)}-{digits(high)}", False))
        for name, mark in found["marks"].items():
            columns.setdefault(name.replace(" ", "\n"), []).append((ms(mark["mean_s"]), False))
    caption = (
        f"ms/token, mean of {len(record['seeds'])} held-out traces; ratio: ceiling / {reference}"
        " tuned for the scenario, with its paired 95 % interval; unlimited memory: 20 times the"
        " device blocks at the same load; empty engine: a fiftieth of the load"
    )
    return Grid("the ceiling", caption, list(scenarios), columns)


def gap_grid(record: Mapping[str, Any]) -> Grid:
    """A row for each policy, a column for each scenario: the share of the gap it closes."""
    reference = record["reference"]
    scenarios = record["scenarios"]
    first = next(iter(scenarios.values()))["policies"]
    names = [name for name in first if name != reference]
    columns = {
        scenario.replace("-", "-\n"): [_share(found["policies"][name]) for name in names]
        for scenario, found in scenarios.items()
    }
    caption = (
        f"({reference} - policy) / ({reference} - ceiling) on the sum over traces, with its 95 %"
        " interval, traces resampled; 100 %: as good as the best plan found, 0 %: as the tuned"
        f" {reference}, below 0: worse; in bold where the interval lies above 0; (f): sees the"
        " future"
    )
    labels = [f"{name} (f)" if first[name]["sees_future"] else name for name in names]
    return Grid("share of the gap closed", caption, labels, columns)


def differences_grid(record: Mapping[str, Any]) -> Grid:
    """Where the plans' verbs are not the reference's: the most frequent kinds of each scenario."""
    rows: list[str] = []
    columns: dict[str, Cells] = {
        head: []
        for head in ("share", "remaining\npauses", "where\nagreed", "device\npaused", "host\nfree")
    }
    for scenario, found in record["scenarios"].items():
        table = found["differences"]
        for point in dict.fromkeys(row["point"] for row in table):
            here = [row for row in table if row["point"] == point]
            total = sum(row["count"] for row in here)
            other = [row for row in here if row["rule"] != row["plan"]]
            agreed = {row["rule"]: row for row in here if row["rule"] == row["plan"]}
            for row in sorted(other, key=lambda row: -float(row["count"]))[:3]:
                rows.append(f"{scenario}: {point}, {row['rule']} -> {row['plan']}")
                for head, text in (
                    ("share", f"{percent(row['count'] / total)} of {total:,}"),
                    ("remaining\npauses", _remaining(row)),
                    ("where\nagreed", _remaining(agreed.get(row["rule"]))),
                    ("device\npaused", percent(row["paused_ratio"])),
                    ("host\nfree", percent(row["host_free_ratio"])),
                ):
                    columns[head].append((text, False))
    if not rows:
        rows, columns = [NONE], {head: [(NONE, False)] for head in columns}
    caption = (
        f"decisions of the best plans at which {record['reference']} would have answered otherwise,"
        " as a share of all at that point; means over them of the true remaining pause (in mean"
        " pauses, at most 4), there and where the plans kept to that verb, of the share of the"
        " device that paused sessions hold, and of the host"
        " that is free"
    )
    return Grid("where the plans depart from the rule", caption, rows, columns)


def _remaining(row: Mapping[str, Any] | None) -> str:
    return NONE if row is None else f"{row['remaining_pauses']:.2f}"


def percent(share: float) -> str:
    """A share in percent: 4 %, 0.3 %, -120 %."""
    value = 100.0 * share
    return f"{value:.1f} %" if 0.0 < abs(value) < 1.0 else f"{value:,.0f} %"


def _share(policy: Mapping[str, Any]) -> tuple[str, bool]:
    found = policy["gap_closed"]
    if found["share"] is None:
        return NONE, False
    low, high = found["ci95"]
    return f"{percent(found['share'])}\n{percent(low)} to {percent(high)}", low > 0.0
