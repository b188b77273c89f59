"""The tables of the suite, for the terminal (fitted to its width) and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlkv.report.findings import digits, ms
from rlkv_agents.knee_contest import moved
from rlkv_agents.shipped import NO_BUNDLE

if TYPE_CHECKING:
    from rich.table import Table

#: Stands where there is nothing to say.
NONE = "-"
_GAP = 2


@dataclass(frozen=True, slots=True)
class Grid:
    """A table whose columns may be spread over several: row names, and a column each for the rest.

    ``columns``: head -> cells; a cell is its text and whether it stands out. Lines of a cell or a
    head are parted by a newline.
    """

    title: str
    caption: str
    rows: Sequence[str]
    columns: Mapping[str, Sequence[tuple[str, bool]]]


def suite_tables(record: Mapping[str, Any], width: int) -> list[Table]:
    """Latency, then regret with its intervals."""
    return [
        table
        for grid in (latency_grid(record), regret_grid(record), summary_grid(record))
        for table in fitted(grid, width)
    ]


def suite_markdown(record: Mapping[str, Any]) -> str:
    """The same, as Markdown."""
    grids = (summary_grid(record), latency_grid(record), regret_grid(record))
    return "\n".join(markdown(grid) for grid in grids)


def latency_grid(record: Mapping[str, Any]) -> Grid:
    """Mean normalized latency of every policy in every scenario; the best of each stands out."""
    names = _names(record["suite"])
    columns = {}
    for part in (record, *record["also"]):
        policies = part["policies"]
        mean_s = {name: policies[name]["normalized_latency_s"]["mean"] for name in policies}
        best = min(mean_s[name] for name in mean_s if not policies[name]["sees_future"])
        columns[_head(part["scenario"])] = [
            (ms(mean_s[name]), mean_s[name] == best) for name in names
        ]
    caption = (
        f"ms/token, mean of {len(record['seeds'])} held-out traces; in bold the best that does not"
        f" see the future; (f): sees the future; arrivals: {record['suite']['arrivals']}"
    )
    return Grid("mean normalized latency", caption, _labels(record, names), columns)


def regret_grid(record: Mapping[str, Any]) -> Grid:
    """Ratio to the tuned reference rule with its interval, by scenario."""
    suite = record["suite"]
    names = _names(suite)
    columns = {
        _head(scenario): [_ratio_cell(row[name], "ratio") for name in names]
        for scenario, row in suite["scenarios"].items()
    }
    caption = (
        f"latency / that of {suite['reference']} tuned for the very scenario, with its paired 95 %"
        " interval; in bold where the interval lies below 1"
    )
    return Grid("regret by scenario", caption, _labels(record, names), columns)


def summary_grid(record: Mapping[str, Any]) -> Grid:
    """Geometric mean and maximum of the regret, trained and unseen scenarios apart."""
    suite = record["suite"]
    names = _names(suite)
    columns: dict[str, list[tuple[str, bool]]] = {}
    for kind in dict.fromkeys(suite["suite_of"].values()):
        found = [suite["policies"][name][kind] for name in names]
        columns[f"{kind}\nmean"] = [_ratio_cell(each, "geometric_mean") for each in found]
        columns[f"{kind}\nmax"] = [
            (f"{digits(each['max'])}x\n{each['worst_scenario'].removeprefix(f'{kind}-')}", False)
            for each in found
        ]
    caption = "geometric mean of the ratios with its 95 % interval, and the worst scenario"
    return Grid("regret", caption, _labels(record, names), columns)


def ablation_tables(record: Mapping[str, Any], width: int) -> list[Table]:
    """Ratio of latencies to the full rule."""
    return fitted(ablation_grid(record), width)


def ablation_markdown(record: Mapping[str, Any]) -> str:
    """The same, as Markdown."""
    return markdown(ablation_grid(record))


def ablation_grid(record: Mapping[str, Any]) -> Grid:
    """A row for each scenario, a column for each mechanism; clear losses stand out."""
    regret, full = record["regret"], record["full_rule"]
    scenarios = list(regret["scenarios"])
    names = [name for name in next(iter(record["mean_s"].values())) if name != full]
    columns: dict[str, list[tuple[str, bool]]] = {
        f"{full},\nms/token": [(ms(record["mean_s"][each][full]), False) for each in scenarios]
    }
    kinds = list(dict.fromkeys(kind for row in regret["policies"].values() for kind in row))
    for name in names:
        cells = [_ratio_cell(regret["scenarios"][s][name], "ratio", above=True) for s in scenarios]
        cells += [
            _ratio_cell(regret["policies"][name][kind], "geometric_mean", above=True)
            for kind in kinds
        ]
        columns[name.replace(" ", "\n", 1)] = cells
    columns[f"{full},\nms/token"] = [*columns[f"{full},\nms/token"], *[(NONE, False)] * len(kinds)]
    caption = (
        "latency / that of the full rule, both tuned for the scenario, with the paired 95 %"
        f" interval over {len(record['seeds'])} held-out traces; in bold where it lies above 1"
    )
    rows = [*scenarios, *(f"geometric mean, {kind}" for kind in kinds)]
    return Grid("what a mechanism is worth", caption, rows, columns)


def knees_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every knee beside the recorded one, with all loads that were tried."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption="sessions/s; latencies in ms/token")
    for head in ("knee", "rate", "recorded", "empty", "limit"):
        table.add_column(head, justify="left" if head == "knee" else "right", no_wrap=True)
    table.add_column("tried: rate latency", overflow="fold")
    for row in rows:
        tried = ", ".join(f"{rate:.4g} {ms(latency_s)}" for rate, latency_s in row["tried"])
        table.add_row(
            row["knee"],
            f"{row['rate_per_s']:.4g}",
            f"{row['recorded_rate_per_s']:.4g}",
            ms(row["empty_s"]),
            ms(row["limit_s"]),
            tried,
        )
    return table


def sustained_grid(record: Mapping[str, Any]) -> Grid:
    """What every policy sustains on every machine; bold: surely another load than the house."""
    machines = record["machines"]
    names = list(next(iter(machines.values())))
    columns = {}
    for machine, policies in machines.items():
        cells = []
        for name in names:
            low, high = policies[name]["over_house"]["ci95"]
            ratio = policies[name]["over_house"]["ratio"]
            text = f"{policies[name]['rate_per_s']:.4g}\n{ratio:.3f}x {low:.3f}-{high:.3f}"
            cells.append((text, moved(policies, name)))
        columns[_head(machine)] = cells
    caption = (
        f"sessions/s up to which {len(record['seeds'])} held-out traces together take twice their"
        " empty latency; below it the mean of the rates that each trace bears by itself over the"
        " house rule's, with its paired 95 % interval; bold: surely not the house rule's"
    )
    policies = next(iter(machines.values()))
    labels = [f"{name} (f)" if policies[name]["sees_future"] else name for name in names]
    return Grid("sustainable load", caption, labels, columns)


def sustained_tables(record: Mapping[str, Any], width: int) -> list[Table]:
    """The grid of ``suite knees --policies`` for a terminal of this width."""
    return fitted(sustained_grid(record), width)


def sustained_markdown(record: Mapping[str, Any]) -> str:
    """The same, as Markdown."""
    return markdown(sustained_grid(record))


def training_grid(record: Mapping[str, Any]) -> Grid:
    """What was learnt on each machine from each start, a column for each seed."""
    starts = [(m, start) for m, by_start in record["machines"].items() for start in by_start]
    train_seeds = list(record["machines"][starts[0][0]][starts[0][1]])
    columns: dict[str, list[tuple[str, bool]]] = {}
    for train_seed in train_seeds:
        cells = [record["machines"][machine][start][train_seed] for machine, start in starts]
        columns[f"seed {train_seed}"] = [_ratio_cell(each["learned"], "ratio") for each in cells]
        columns[f"kept {train_seed}"] = [(each["learned_by"], False) for each in cells]
    cpu_s = [
        [record["machines"][machine][start][s]["cpu_s"] for s in train_seeds]
        for machine, start in starts
    ]
    columns["CPU s"] = [(f"{min(each):.0f}-{max(each):.0f}", False) for each in cpu_s]
    caption = (
        f"mean latency of what rlkv train saved over that of the tuned house rule,"
        f" {len(record['seeds'])} held-out traces, paired 95 % interval; bold: the interval lies"
        " below 1; kept: what the saved snapshot is of; CPU s: of learning, tuning not counted"
    )
    rows = [f"{machine}, from {_start(start)}" for machine, start in starts]
    return Grid("trained for one machine", caption, rows, columns)


def _start(name: str) -> str:
    return "the rule" if name == NO_BUNDLE else name


def training_tables(record: Mapping[str, Any], width: int) -> list[Table]:
    """The grid of ``suite train`` for a terminal of this width."""
    return fitted(training_grid(record), width)


def training_markdown(record: Mapping[str, Any]) -> str:
    """The same, as Markdown."""
    return markdown(training_grid(record))


def _names(suite: Mapping[str, Any]) -> list[str]:
    return list(suite["policies"])


def _labels(record: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    policies = record["policies"]
    return [f"{name} (f)" if policies[name]["sees_future"] else name for name in names]


def _head(scenario: str) -> str:
    return scenario.replace("-", "-\n")


def _ratio_cell(found: Mapping[str, Any], field: str, above: bool = False) -> tuple[str, bool]:
    low, high = found["ci95"]
    text = f"{digits(found[field])}x\n{digits(low)}-{digits(high)}"
    return text, low > 1.0 if above else high < 1.0


def fitted(grid: Grid, width: int) -> list[Table]:
    """The grid as tables, as many columns in each as fit beside the names."""
    name_width = max(map(len, grid.rows))
    tables: list[Table] = []
    left = dict(grid.columns)
    while left:
        room = width - name_width - 2 * _GAP
        shown: list[str] = []
        for head, cells in left.items():
            lines = "\n".join([head, *(text for text, _ in cells)]).split("\n")
            room -= _GAP + max(map(len, lines))
            if shown and room < 0:
                break
            shown.append(head)
        last = len(shown) == len(left)
        tables.append(_table(grid, {head: left.pop(head) for head in shown}, last))
    return tables


def _table(grid: Grid, columns: Mapping[str, Sequence[tuple[str, bool]]], last: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=SIMPLE_HEAD,
        title=grid.title,
        caption=Text(grid.caption) if last else None,
        padding=(0, _GAP, 0, 0),
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for head in columns:
        table.add_column(Text(head), justify="right", vertical="top")
    for i, row in enumerate(grid.rows):
        cells = [columns[head][i] for head in columns]
        styled = [Text(text, style="bold" if strong else "") for text, strong in cells]
        table.add_row(Text(row), *styled)
    return table


def markdown(grid: Grid) -> str:
    """The grid as one Markdown table under its caption."""
    heads = [head.replace("-\n", "-").replace("\n", " ") for head in grid.columns]
    lines = [f"{grid.title[0].upper()}{grid.title[1:]}: {grid.caption}.", ""]
    lines.append("| | " + " | ".join(heads) + " |")
    lines.append("|---|" + "---:|" * len(heads))
    for i, row in enumerate(grid.rows):
        cells = []
        for column in grid.columns.values():
            text, strong = column[i]
            first, _, rest = text.partition("\n")
            rest = f" ({rest})" if rest else ""
            cells.append(f"**{first}**{rest}" if strong else f"{first}{rest}")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])
