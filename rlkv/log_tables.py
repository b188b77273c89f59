"""Tables of a log's figures."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

#: Tools that are shown, the most called first; ``--json`` has them all.
MAX_TOOLS_SHOWN = 20


def log_tables(figures: Mapping[str, Any]) -> Group:
    """The figures of ``log_statistics``, for a terminal."""
    from rich.console import Group

    lines = [_summary(figures)]
    return Group(*lines, _decisions(figures), _tools(figures), _reuse(figures))


def _summary(figures: Mapping[str, Any]) -> str:
    confidence = figures["confidence"]
    parts = [
        f"{figures['num_decisions']:,} decisions of {figures['num_requests']:,} requests,"
        f" {figures['num_outcomes']:,} outcomes, {figures['num_ends']:,} ends of sessions,"
        f" {len(figures['engines'])} engines",
    ]
    if figures["since_s"] is not None:
        parts.append(f"{_time(figures['since_s'])} to {_time(figures['until_s'])}")
    parts.append(
        f"the policy departs from the rule in {_percent(figures['departure_ratio'])} of what it"
        f" decides, and would in {_percent(figures['policy_differs_ratio'])} of what it was asked"
    )
    parts.append(
        f"confidence: mean {_number(confidence['mean'])}, p10 {_number(confidence['p10'])},"
        f" p50 {_number(confidence['p50'])}, p90 {_number(confidence['p90'])}"
    )
    if figures["num_unreadable"]:
        parts.append(f"{figures['num_unreadable']:,} entries could not be read")
    return "\n".join(parts)


def _decisions(figures: Mapping[str, Any]) -> Table:
    table = _table("decisions", "verb", "decided by", "why")
    for heading in ("decisions", "share"):
        table.add_column(heading, justify="right")
    for row in figures["decisions"]:
        share = row["num"] / figures["num_decisions"]
        table.add_row(
            row["verb"], row["decided_by"], row["reason"], f"{row['num']:,}", _percent(share)
        )
    return table


def _tools(figures: Mapping[str, Any]) -> Table:
    from rich.markup import escape

    tools = figures["tools"]
    table = _table("pauses by tool, seconds", "tool")
    for heading in (
        "pauses", "p50", "p90", "predicted", "its p50", "its p90", "up to p50", "to p90"
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in tools[:MAX_TOOLS_SHOWN]:
        table.add_row(
            escape(row["tool"]), f"{row['num_outcomes']:,}", _number(row["pause_p50_s"]),
            _number(row["pause_p90_s"]), f"{row['num_predicted']:,}",
            _number(row["predicted_p50_s"]), _number(row["predicted_p90_s"]),
            _percent(row["coverage_p50_ratio"]), _percent(row["coverage_p90_ratio"]),
        )  # fmt: skip
    if len(tools) > MAX_TOOLS_SHOWN:
        table.caption = f"{len(tools) - MAX_TOOLS_SHOWN} more tools (--json has them)"
    return table


def _reuse(figures: Mapping[str, Any]) -> Table:
    table = _table("after the pause, by what was decided last", "verb")
    for heading in ("outcomes", "reused", "mean delay, s"):
        table.add_column(heading, justify="right")
    for row in figures["reuse"]:
        ratio, delay = _percent(row["reuse_ratio"]), _number(row["mean_delay_s"])
        table.add_row(row["verb"], f"{row['num_outcomes']:,}", ratio, delay)
    return table


def _table(title: str, *headings: str) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(*headings, box=SIMPLE, title=title, title_justify="left", padding=(0, 1, 0, 0))
    table.columns[0].overflow = "fold"
    return table


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
