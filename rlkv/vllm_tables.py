"""The table of the bench on real vLLM servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

#: Figure of a policy, heading, factor to its unit, and how it is written.
COLUMNS = (
    ("cached_share", "cached, %", 100.0, ".1f"),
    ("resume_p50_s", "tool to token p50, s", 1.0, ".2f"),
    ("resume_p90_s", "p90", 1.0, ".2f"),
    ("agent_turn_p50_s", "agents' turn p50, s", 1.0, ".2f"),
    ("agent_turn_p90_s", "p90", 1.0, ".2f"),
    ("stranger_turn_p50_s", "strangers' p50, s", 1.0, ".2f"),
    ("stranger_turn_p90_s", "p90", 1.0, ".2f"),
    ("total_s", "total, s", 1.0, ".1f"),
)


def policies_table(record: Mapping[str, Any]) -> Table:
    """One row a policy: means over runs, and 95 % intervals of the ratios to stock vLLM below."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("policy", box=SIMPLE, padding=(0, 1, 0, 0))
    for _, heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for policy, measured in record["measured_on"]["policies"].items():
        cells = [_cell(measured[figure], factor, form) for figure, _, factor, form in COLUMNS]
        table.add_row(policy, *cells)
    return table


def _cell(entry: Mapping[str, Any], factor: float, form: str) -> str:
    mean = format(factor * entry["mean"], form)
    if "over_lru" in entry:
        between = _between(entry["over_lru_ci95"], 1.0, ".2f")
        return f"{mean}\n{entry['over_lru']:.2f}x{between}"
    return mean + _between(entry["ci95"], factor, form)


def _between(interval: list[float] | None, factor: float, form: str) -> str:
    if interval is None:
        return ""
    low, high = (format(factor * bound, form) for bound in interval)
    return f" {low} to {high}"
