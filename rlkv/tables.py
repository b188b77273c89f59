"""The tables of a record in the terminal, fitted to its width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from rlkv.report.findings import ms, times, verdict
from rlkv.report.schema import (
    Record,
    best_rule_name,
    learned_name,
    ratio_to_best_rule,
    scenarios,
)
from rlkv.report.sections import NONE, Rows, policy_rows

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

#: Columns of the policy table that a narrow terminal goes without, the first first.
_DISPENSABLE = ("p90", "resume p50", "p50", "waste", "recompute", "resume p99")
_STYLES = {"learned": "bold blue", "best": "bold dark_orange3", "heading": "dim", "verdict": "bold"}
_MARKS = {"learned": " *", "best": " +"}
#: Right of each cell, and what the box puts between two cells and at either edge.
_GAP, _LINE = 2, 1


def policies_table(record: Record | dict[str, Any], width: int | None = None) -> Group:
    """Policies by mean latency, those that see the future apart below, and the verdict.

    Args:
        record: one scenario; further ones in ``also`` are left to further calls.
        width: characters a line; None: the terminal's.
    """
    from rich.console import Console, Group

    one = cast(Record, record)
    lead = _text(verdict(one), "verdict")
    return Group(_policies(one, width or Console().width), lead)


def _policies(record: Record, width: int) -> Table:
    rows = policy_rows(record)
    shown = _fitting(rows, width)
    seeds = len(record.get("seeds", []))
    on = f", {seeds} {record.get('split', '')} traces" if seeds else ""
    caption = (
        "* learned, + best rule; ms/token, 95 % interval of the mean; resume: ms after a tool"
        f"{on}; ratio to the best rule"
    )
    table = _table(record["scenario"], caption, [rows.head[i] for i in shown])
    for role, cells in rows.body:
        if role == "heading":
            table.add_section()
            table.add_row(_text("sees the future:", role))
            continue
        name = cells[0] + _MARKS.get(role, "")
        table.add_row(*(_text(name if i == 0 else cells[i], role) for i in shown))
    return table


def compare_table(records: Sequence[tuple[str, Record]]) -> Table:
    """The learned policy against the best rule, a row for each scenario of each named record."""
    head = ["run", "scenario", "traces", "learned", "rule", "best rule", "ratio"]
    caption = (
        "mean normalized latency in ms/token, learned and best rule; their ratio on the same traces"
        " with its 95 % interval"
    )
    table = _table("", caption, head)
    table.padding = (0, 1, 0, 0)
    for column in (0, 1, 5):
        table.columns[column].justify = "left"
        table.columns[column].no_wrap = False
        table.columns[column].overflow = "fold"
    for run, record in records:
        for one in scenarios(record):
            learned, best = learned_name(one), best_rule_name(one)
            ratio = ratio_to_best_rule(one, learned) if learned else None
            cells = [
                run,
                one["scenario"],
                str(len(one["seeds"])) if "seeds" in one else NONE,
                _mean(one, learned),
                _mean(one, best),
                best or NONE,
                times(ratio) if ratio else NONE,
            ]
            table.add_row(*(_text(cell, "") for cell in cells))
        table.add_section()
    return table


def _mean(record: Record, name: str | None) -> str:
    return ms(record["policies"][name]["normalized_latency_s"]["mean"]) if name else NONE


def _fitting(rows: Rows, width: int) -> list[int]:
    # Indices of the columns that fit.
    widest = [len(head) for head in rows.head]
    for role, cells in rows.body:
        if role != "heading":
            widest = [max(known, len(cell)) for known, cell in zip(widest, cells, strict=True)]
    widest[0] += len(_MARKS["best"])
    shown = list(range(len(rows.head)))
    for name in _DISPENSABLE:
        if sum(widest[i] + _GAP + _LINE for i in shown) + _LINE <= width:
            break
        shown.remove(list(rows.head).index(name))
    return shown


def _table(title: str, caption: str, head: Sequence[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=SIMPLE_HEAD,
        title=Text(title) if title else None,
        caption=Text(caption),
        padding=(0, _GAP, 0, 0),
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    for i, name in enumerate(head):
        justify = "left" if i == 0 else "right"
        table.add_column(Text(name), justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def _text(cell: str, role: str) -> Text:
    from rich.text import Text

    return Text(cell, style=_STYLES.get(role, ""))
