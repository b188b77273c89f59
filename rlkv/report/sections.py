"""The tables of a report as rows of text, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlkv.report.findings import digits, ms, times
from rlkv.report.schema import (
    PolicyFigures,
    Record,
    best_rule_name,
    bounds,
    competitors,
    learned_name,
    ratio_to_best_rule,
    scenarios,
)

#: Stands where a record has no figure.
NONE = "-"


@dataclass(frozen=True, slots=True)
class Rows:
    """A table: each row is its role (``learned``, ``best``, ``heading`` or empty) and its cells.

    A ``heading`` has one cell, over all columns.
    """

    head: Sequence[str]
    body: Sequence[tuple[str, Sequence[str]]]
    caption: str = ""
    text_columns: frozenset[int] = frozenset()


def policy_rows(record: Record) -> Rows:
    """Every policy by mean latency; those that see the future apart, below."""
    body: list[tuple[str, Sequence[str]]] = [
        (role_of(record, name), [name, *_figures(record, name)]) for name in competitors(record)
    ]
    if bounds(record):
        body.append(("heading", ["sees the future: a bound, not a competitor"]))
        body += [("", [name, *_figures(record, name)]) for name in bounds(record)]
    head = ["policy", "ms/token, mean", "ratio", "p50", "p90", "p99", "resume p50", "resume p99",
            "recompute", "waste"]  # fmt: skip
    caption = (
        "Normalized latency in ms/token with the 95 % interval of its mean; resume latency in ms"
    )
    return Rows(head, body, caption)


def scenario_rows(records: Sequence[Record]) -> Rows:
    """The learned policy against the best rule, a row for each scenario."""
    body: list[tuple[str, Sequence[str]]] = []
    for record in records:
        learned, best = learned_name(record), best_rule_name(record)
        ratio = ratio_to_best_rule(record, learned) if learned else None
        body.append(
            (
                "",
                [
                    record["scenario"],
                    mean_with_interval(record["policies"][learned]) if learned else NONE,
                    times(ratio) if ratio else NONE,
                    best or NONE,
                    mean_with_interval(record["policies"][best]) if best else NONE,
                ],
            )
        )
    head = ["scenario", "learned, ms/token", "ratio", "best rule", "best rule, ms/token"]
    return Rows(head, body, text_columns=frozenset({3}))


def regret_rows(record: Record) -> Rows:
    """Worst case and geometric mean of every policy over the scenarios."""
    from rlkv_agents.regret import regret

    learned = learned_name(record)
    body: list[tuple[str, Sequence[str]]] = []
    below: list[tuple[str, Sequence[str]]] = []
    for name, row in regret(scenarios(record))["policies"].items():
        cells = [name, f"{row['geometric_mean']:.2f}x", f"{row['max']:.2f}x",
                 row["worst_scenario"], str(row["num_scenarios"])]  # fmt: skip
        role = "learned" if name == learned else ""
        (below if row["sees_future"] else body).append((role, cells))
    if below:
        body += [("heading", ["sees the future: a bound, not a competitor"]), *below]
    head = ["policy", "geometric mean", "worst case", "in", "scenarios"]
    return Rows(head, body, "Ratio to the best rule of each scenario", frozenset({3}))


def gap_rows(record: Record) -> Rows:
    """Mean and p99 of the resume latency by pause length, in ms."""
    shown = {
        name: figures.get("resume_latency_by_gap_s", {})
        for name, figures in competitors(record).items()
    }
    gaps = list(dict.fromkeys(gap for by_gap in shown.values() for gap in by_gap))
    body = [
        (
            role_of(record, name),
            [
                name,
                *(
                    f"{ms(by_gap[gap]['mean'])} / {ms(by_gap[gap]['p99'])}"
                    if gap in by_gap
                    else NONE
                    for gap in gaps
                ),
            ],
        )
        for name, by_gap in shown.items()
    ]
    return Rows(["policy", *gaps], body if gaps else [], "Resume latency in ms, mean / p99")


def load_rows(record: Record) -> Rows:
    """Mean latency of every policy at every load, and what it sustains."""
    sweep = record.get("load_sweep")
    if not sweep:
        return Rows([], [])
    rates = sweep.get("sustainable_rate_per_s", {})
    sides = sweep.get("sustainable_side", {})
    low, high = min(sweep["rates_per_s"]), max(sweep["rates_per_s"])
    outside = {"below": f"< {digits(low)}", "above": f"> {digits(high)}"}
    body = []
    for name, curve in sweep["policies"].items():
        rate = rates.get(name)
        sustained = digits(rate) if rate is not None else outside.get(sides.get(name, ""), NONE)
        cells = [name, *(NONE if s is None else ms(s) for s in curve), sustained]
        body.append((role_of(record, name), cells))
    head = ["policy", *(f"{rate:.3g}/s" for rate in sweep["rates_per_s"]), "sustained, 1/s"]
    return Rows(head, body, "Mean normalized latency in ms/token at each load")


def source_rows(record: Record) -> Rows:
    """Where each policy comes from, its constants, and how much it decided."""
    body = []
    for name in [*competitors(record), *bounds(record)]:
        figures = record["policies"][name]
        constants = figures.get("constants", {})
        said = ", ".join(f"{key} {value}" for key, value in constants.items())
        cells = [name, figures.get("source", NONE), said or NONE,
                 _count(figures.get("num_decisions")), _count(figures.get("num_preemptions")),
                 _count(figures.get("sessions_finished"))]  # fmt: skip
        body.append((role_of(record, name), cells))
    head = ["policy", "source", "constants", "decisions", "preemptions", "sessions"]
    return Rows(head, body, text_columns=frozenset({1, 2}))


def role_of(record: Record, name: str) -> str:
    """``learned``, ``best`` or empty."""
    if name == learned_name(record):
        return "learned"
    return "best" if name == best_rule_name(record) else ""


def mean_with_interval(figures: PolicyFigures) -> str:
    """Mean normalized latency in ms/token: 24.7 [23.9, 25.6]."""
    latency = figures["normalized_latency_s"]
    if "ci95" not in latency:
        return ms(latency["mean"])
    low, high = latency["ci95"]
    return f"{ms(latency['mean'])} [{ms(low)}, {ms(high)}]"


def _figures(record: Record, name: str) -> list[str]:
    figures = record["policies"][name]
    latency, resume = figures["normalized_latency_s"], figures.get("resume_latency_s")
    ratio = ratio_to_best_rule(record, name)
    return [
        mean_with_interval(figures),
        times(ratio) if ratio else NONE,
        ms(latency["p50"]),
        ms(latency["p90"]),
        ms(latency["p99"]),
        ms(resume["p50"]) if resume else NONE,
        ms(resume["p99"]) if resume else NONE,
        _share(figures.get("recompute_ratio")),
        _share(figures.get("waste")),
    ]


def _share(value: float | None) -> str:
    return NONE if value is None else f"{100.0 * value:.1f} %"


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"
