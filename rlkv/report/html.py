"""The page of a report: one file that needs nothing beside itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources

from rlkv.report.explanation import (
    about_departures,
    binned_quantities,
    findings,
    latency_rows,
    quantity_rows,
    requester_rows,
    tree_heading,
)
from rlkv.report.findings import digits, overall, seconds, verdict
from rlkv.report.pictures import REGRET
from rlkv.report.schema import Record, scenarios
from rlkv.report.sections import (
    Rows,
    gap_rows,
    load_rows,
    policy_rows,
    regret_rows,
    scenario_rows,
    source_rows,
)

#: What each picture shows; what it found stands in its title.
_CAPTIONS = {
    "policies": "Mean over sessions, then over seeds; bars are 95 % bootstrap intervals over seeds."
    " All policies ran on the same traces.",
    "load": "Arrivals of the same sessions stretched to each load. A load is sustained up to where"
    " the line crosses twice the lowest latency of an empty engine; dashed: sees the future.",
    "learning_curve": "Every snapshot on the validation traces that also tuned the rules; dashed in"
    " grey: sees the future. The chosen snapshot is the one evaluated here. Dashed in colour: other"
    " recipes on the same scenario from the same kind of start, every snapshot of one training.",
    "decision_map": "The greedy verb at a typical decision that the policy's own rule met, with the"
    " candidate's expected remaining pause and context replaced. Where a requester is a new"
    " session, preserve lets it wait; else it passes to the next candidate. Dots are decisions"
    " that were met.",
    "memory_timeline": "Shares of the device pool on one trace, and of the host pool as a line.",
    "gaps": "From the return of a tool to the next token, by how long the pause had been.",
    "departures": "Of the decisions at which each requester needs memory, the share that the policy"
    " answers otherwise than its rule, in five bins of what it sees, and what it answers instead."
    " A dash: not met.",
    REGRET: "Each dot is a policy. The best rule is chosen anew for every scenario, by its mean on"
    " the very traces shown: no single rule is at 1 everywhere unless it is best everywhere.",
}
_METRICS = (
    ("normalized latency", "(finish - arrival - pauses) / generated tokens of a session"),
    ("resume latency", "from the return of a tool to the next generated token"),
    ("recompute", "tokens computed again / tokens computed"),
    ("waste", "device memory held by paused sessions / device memory, over time"),
    ("ratio", "mean normalized latency / the best rule's, seeds resampled in pairs; below 1 is"
     " faster"),
)  # fmt: skip


def render_html(
    record: Record, pictures: Sequence[Mapping[str, bytes]], regret_png: bytes | None
) -> str:
    """The report of a record.

    Args:
        record: a checked record.
        pictures: PNGs by name, a mapping for each of ``scenarios(record)``.
        regret_png: the picture over all scenarios, if there are several.
    """
    css = resources.files("rlkv.report").joinpath("page.css").read_text("utf-8")
    body = [*_head(record), *_overview(record, regret_png)]
    for one, drawn in zip(scenarios(record), pictures, strict=True):
        body += _scenario(one, drawn, alone=len(pictures) == 1)
    body += _foot()
    title = escape(f"rlkv: {record['scenario']}")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            f'<head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>\n{css}</style></head>",
            "<body>",
            *body,
            "</body></html>\n",
        ]
    )


def _head(record: Record) -> Iterable[str]:
    yield "<h1>rlkv report</h1>"
    yield f'<p class="lead">{escape(overall(record))}</p>'
    facts = {
        "commit": record.get("commit") or "",
        "machine": record.get("machine", ""),
        "wall time": seconds(record["wall_s"]) if "wall_s" in record else "",
        "command": record.get("command", ""),
    }
    yield _facts(facts, code=("commit", "command"), wide=("command",))


def _overview(record: Record, regret_png: bytes | None) -> Iterable[str]:
    if len(scenarios(record)) < 2:
        return
    yield "<h2>All scenarios</h2>"
    yield _table(scenario_rows(scenarios(record)))
    if regret_png is not None:
        yield _figure(record, REGRET, regret_png)
        yield _table(regret_rows(record))


def _scenario(record: Record, pictures: Mapping[str, bytes], alone: bool) -> Iterable[str]:
    yield f"<h2>{escape(record['scenario'])}</h2>"
    if not alone:
        yield f'<p class="finding">{escape(verdict(record))}</p>'
    rate, seeds = record.get("rate_per_s"), record.get("seeds", [])
    yield _facts(
        {
            "profile": record.get("profile", ""),
            "workload": record.get("workload", ""),
            "load": f"{digits(rate)} sessions/s" if rate is not None else "",
            "sessions a trace": str(record.get("num_sessions", "")),
            "traces": f"{len(seeds)} {record.get('split', '')}" if seeds else "",
            "seeds": _ranges(seeds),
        }
    )
    numbers = {
        "policies": _table(policy_rows(record)),
        "load": _details("Load sweep in numbers", _table(load_rows(record))),
        "gaps": _details("Resume latency in numbers", _table(gap_rows(record))),
    }
    for name, png in pictures.items():
        yield _figure(record, name, png)
        yield numbers.get(name, "")
    yield from _explanation(record)
    yield _details("Sources and constants of the policies", _table(source_rows(record)))


def _explanation(record: Record) -> Iterable[str]:
    explanation = record.get("explanation")
    if explanation is None:
        return
    yield "<h3>What was learnt</h3>"
    yield f'<p class="finding">{escape(about_departures(explanation))}.</p>'
    sentences = "".join(f"<li>{escape(sentence)}.</li>" for sentence in findings(explanation))
    yield f"<ul>{sentences}</ul>" if sentences else ""
    yield _table(requester_rows(explanation))
    tables = [
        _table(quantity_rows(explanation, name))
        for name in binned_quantities(explanation)
        if explanation["departures"]["departed"]
    ]
    yield _details("Departures in numbers", "".join(tables))
    for tree in explanation.get("trees", []):
        if tree["departed"]:
            yield f"<p>{escape(tree_heading(tree))}</p>"
            yield f"<pre>{escape(chr(10).join(tree['lines']))}</pre>"
    yield _table(latency_rows(explanation))


def _foot() -> Iterable[str]:
    yield "<h2>What the figures mean</h2>"
    yield _facts(dict(_METRICS), wide=tuple(name for name, _ in _METRICS))


def _facts(facts: Mapping[str, str], code: Sequence[str] = (), wide: Sequence[str] = ()) -> str:
    items = []
    for name, value in facts.items():
        if value:
            shown = f"<code>{escape(value)}</code>" if name in code else escape(value)
            kind = ' class="wide"' if name in wide else ""
            items.append(f"<div{kind}><dt>{escape(name)}</dt><dd>{shown}</dd></div>")
    return f"<dl>{''.join(items)}</dl>" if items else ""


def _figure(record: Record, name: str, png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    alt = escape(f"{name.replace('_', ' ')} of {record['scenario']}")
    caption = escape(_CAPTIONS.get(name, ""))
    return (
        f'<figure><img alt="{alt}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(rows: Rows) -> str:
    if not rows.body:
        return ""
    text = [' class="text"' if i in rows.text_columns else "" for i in range(len(rows.head))]
    head = "".join(f"<th{kind}>{escape(h)}</th>" for h, kind in zip(rows.head, text, strict=True))
    lines = []
    for role, cells in rows.body:
        if role == "heading":
            lines.append(f'<tr><th colspan="{len(rows.head)}">{escape(cells[0])}</th></tr>')
            continue
        shown = "".join(
            f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(cells, text, strict=True)
        )
        lines.append(f'<tr class="{role}">{shown}</tr>' if role else f"<tr>{shown}</tr>")
    caption = f"<caption>{escape(rows.caption)}</caption>" if rows.caption else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    # The interval of a figure stands back.
    figure, bracket, interval = text.partition(" [")
    if bracket and interval.endswith("]"):
        return f'{escape(figure)} <span class="interval">[{escape(interval)}</span>'
    return escape(text)


def _details(summary: str, content: str) -> str:
    if not content:
        return ""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _ranges(seeds: Sequence[int]) -> str:
    # 0-5, 9
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in parts)
