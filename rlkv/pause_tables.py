"""Tables of what is known of pauses, and of what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

#: Label, and key of ``pause_statistics``.
_FIGURES = (
    ("classes", "num_classes"),
    ("explained variance of log pause", "explained_variance"),
    ("log-likelihood", "log_likelihood"),
    ("AUC of longer than 30 s", "auc_long"),
    ("explained variance of the remainder", "remainder_variance"),
    ("ordering of two paused sessions", "ordering"),
)


def statistics_table(figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """The figures of ``held_out_statistics``, one column an estimate."""
    from rich.box import SIMPLE
    from rich.table import Table

    first = next(iter(figures.values()))
    caption = f"{first['num_pauses']:,} pauses of {first['num_sessions']:,} held-out sessions"
    table = Table("pauses by", box=SIMPLE, title=first["trace"], caption=caption)
    for estimate in figures:
        table.add_column(estimate, justify="right")
    for label, key in _FIGURES:
        table.add_row(label, *(_number(each[key]) for each in figures.values()))
    for key, label in (("pinball", "pinball loss"), ("calibration", "share below")):
        for level in first[key]:
            name = f"{label}, q{100 * float(level):g}"
            table.add_row(name, *(_number(each[key][level]) for each in figures.values()))
    return table


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row a scenario and load: latency by tool, and the others' ratio to it."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, title="tuned house rule, pauses known by", padding=(0, 1, 0, 0))
    table.add_column("scenario", overflow="fold")
    table.add_column("load", justify="right")
    reference, *others = rows[0]["by"]
    table.add_column(f"{reference}, ms/token", justify="right")
    for estimate in others:
        table.add_column(estimate)
    for row in rows:
        by = row["by"]
        ratios = [
            f"{by[each]['ratio']:.3f} [{by[each]['ci95'][0]:.3f}, {by[each]['ci95'][1]:.3f}]"
            for each in others
        ]
        mean_ms = f"{by[reference]['mean_s'] * 1e3:.2f}"
        table.add_row(row["scenario"], f"{row['load']:g}", mean_ms, *ratios)
    return table


def online_table(name: str, figures: Mapping[str, Any]) -> Table:
    """The figures of ``progressive_losses``: one row a quantile."""
    from rich.box import SIMPLE
    from rich.table import Table

    caption = (
        f"{figures['num_pauses']:,} pauses of the second half; pinball loss, and its ratio to that"
        " of the table fitted on the first half; share of pauses up to the prediction"
    )
    table = Table(box=SIMPLE, title=name, caption=caption, padding=(0, 1, 0, 0))
    for heading in ("quantile", "loss, s", "ratio", "loss, log s", "ratio", "share", "table's"):
        table.add_column(heading, justify="right")
    online, static = figures["online"], figures["static"]
    for level in online["coverage"]:
        losses = []
        for key in ("pinball_s", "pinball_log"):
            ours, theirs = online[key][level], static[key][level]
            losses += [f"{ours:.3g}", f"{ours / theirs:.3f}" if theirs else "-"]
        shares = (f"{each['coverage'][level]:.3f}" for each in (online, static))
        table.add_row(level, *losses, *shares)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
