"""An explanation in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rlkv.report.explanation import (
    about_departures,
    about_trees,
    binned_quantities,
    chosen_trees,
    constant_quantities,
    findings,
    latency_rows,
    percent,
    quantity_rows,
    ratio,
    requester_rows,
    tree_heading,
)
from rlkv.report.order_words import order_formula
from rlkv.report.schema import Explanation
from rlkv.report.sections import Rows
from rlkv_agents.house_rule import ORDER_PREFIX

if TYPE_CHECKING:
    from rich.console import RenderableType


#: What a cell of a table of departures says.
CELL = "the share that departs, and of what share of that requester's decisions"


def explanation_parts(explanation: Explanation) -> Iterator[RenderableType]:
    """What is printed of one explanation, in order."""
    from rich.text import Text

    yield Text(about_departures(explanation), style="bold")
    yield _rich(requester_rows(explanation))
    for sentence in findings(explanation):
        yield Text(f"{sentence}.")
    if sentence := about_order(explanation):
        yield Text(sentence)
    if not explanation["departures"]["departed"]:
        if explanation.get("latency"):
            yield _rich(latency_rows(explanation))
        return
    for name in binned_quantities(explanation):
        yield _rich(quantity_rows(explanation, name))
    yield Text(f"each cell: {CELL}\n")
    for sentence in constant_quantities(explanation):
        yield Text(f"{sentence}\n")
    for tree in explanation.get("trees", []):
        yield Text(tree_heading(tree), style="bold")
        yield Text("\n".join(f"  {line}" for line in tree["lines"]) + "\n")
    if explanation.get("latency"):
        yield _rich(latency_rows(explanation))
        yield Text(about_trees(explanation), style="bold")


def overview_markdown(record: Mapping[str, Any]) -> str:
    """The head of a page: what it shows, and one row for each explained bundle."""
    body: list[tuple[str, list[str]]] = []
    for one in record["explained"]:
        explanation: Explanation = one["explanation"]
        latency = explanation.get("latency", {})
        departed = percent(explanation["departures"]["departed"])
        cells = ["-", "-", "-"]
        trees = chosen_trees(explanation)
        if trees in latency:
            network = latency["network"]["ratio_to_rule"] if "network" in latency else None
            cells = [
                ratio(network) if network else "-",
                ratio(latency[trees]["ratio_to_rule"]),
                ratio(latency[trees]["ratio_to_policy"]) if network else "-",
            ]
        body.append(("", [one["scenario"], departed, *cells]))
    head = ["scenario", "departs at", "network / rule", "trees / rule", "trees / network"]
    num = max(len(one["seeds"]) for one in record["explained"])
    parts = [
        "# What was learnt",
        "Where a trained policy answers otherwise than the tuned rule it started at, and the"
        " decision trees that say the same in words. Decisions are those of four validation"
        f" traces; latencies are mean normalized latency on {num} paired held-out traces, with 95 %"
        " intervals. Trees are distilled by DAgger (four passes, decisions weighted by the margin"
        " of the network), their depth chosen on 16 validation traces.",
        f"Made by `{record['command']}` at commit {record['commit']}.",
        _markdown(Rows(head, body)),
    ]
    return "\n\n".join(parts) + "\n"


def explanation_markdown(found: Mapping[str, Any], picture: str | None) -> str:
    """A section on one explained bundle.

    Args:
        found: ``scenario``, ``bundle`` and ``explanation``, as ``rlkv explain`` records them.
        picture: name of the file with its picture, if it has one.
    """
    explanation: Explanation = found["explanation"]
    parts = [
        f"## {found['scenario']}",
        f"Rule underneath: `{explanation['rule']}` ({_constants(explanation)}); "
        f"{found['profile']}, {found['workload']}, {found['rate_per_s']:.3g} sessions/s, mean pause"
        f" {explanation['mean_pause_s']:.3g} s.",
        about_order(explanation),
        f"**{about_departures(explanation)}.**",
        "\n".join(f"- {sentence}." for sentence in findings(explanation)),
        _markdown(requester_rows(explanation)),
    ]
    if explanation["departures"]["departed"]:
        if picture is not None:
            parts.append(f"![Where {explanation['policy']} departs from its rule]({picture})")
        parts.append(f"Each cell below: {CELL}.")
        parts += [
            _markdown(quantity_rows(explanation, name)) for name in binned_quantities(explanation)
        ]
        parts += [f"{sentence.capitalize()}." for sentence in constant_quantities(explanation)]
    for tree in explanation.get("trees", []):
        if tree["departed"]:
            parts += [f"{tree_heading(tree)}:", "```\n" + "\n".join(tree["lines"]) + "\n```"]
    if explanation.get("latency"):
        parts += [_markdown(latency_rows(explanation)), _ended(about_trees(explanation))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _ended(sentence: str) -> str:
    return f"{sentence}." if sentence else ""


def _constants(explanation: Explanation) -> str:
    constants = explanation.get("constants", {})
    said = [f"{k} {v:g}" for k, v in constants.items() if not k.startswith(ORDER_PREFIX)]
    return ", ".join(said) or "no constants"


def about_order(explanation: Explanation) -> str:
    """Whose blocks go first, where that was learnt; else empty."""
    formula = order_formula(explanation.get("constants", {}))
    return f"Learnt, whose blocks go first: the largest `{formula}`." if formula else ""


def _rich(rows: Rows) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False,
        caption=Text(rows.caption) if rows.caption else None, caption_justify="left",
    )  # fmt: skip
    for i, head in enumerate(rows.head):
        is_text = i == 0 or i in rows.text_columns
        table.add_column(Text(head), justify="left" if is_text else "right")
    for _, cells in rows.body:
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _markdown(rows: Rows) -> str:
    align = ["---" if i == 0 or i in rows.text_columns else "---:" for i in range(len(rows.head))]
    lines = [f"{rows.caption}:\n"] if rows.caption else []
    lines += [f"| {' | '.join(rows.head)} |", f"|{'|'.join(align)}|"]
    lines += [f"| {' | '.join(cells)} |" for _, cells in rows.body]
    return "\n".join(lines)
