"""The schema of ``record.json``, and what pictures and tables ask of a record."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Distribution(TypedDict):
    """Mean and quantiles; the unit is in the name of the field that holds it."""

    mean: float
    p50: float
    p90: float
    p99: float


class Latency(Distribution):
    """Normalized latency, seconds per token, with the interval of its mean over seeds."""

    ci95: NotRequired[tuple[float, float]]


class Ratio(TypedDict):
    """Ratio of mean normalized latencies on the same traces."""

    ratio: float
    ci95: NotRequired[tuple[float, float]]


class PolicyFigures(TypedDict):
    """One policy on one scenario."""

    normalized_latency_s: Latency
    resume_latency_s: NotRequired[Distribution]
    first_token_s: NotRequired[Distribution]
    resume_latency_by_gap_s: NotRequired[dict[str, Distribution]]
    recompute_ratio: NotRequired[float]
    waste: NotRequired[float]
    busy_ratio: NotRequired[float]
    sessions_finished: NotRequired[int]
    num_decisions: NotRequired[int]
    num_preemptions: NotRequired[int]
    mean_by_seed_s: NotRequired[list[float]]
    source: NotRequired[str]
    constants: NotRequired[dict[str, Any]]
    sees_future: NotRequired[bool]
    ratio_to_best_rule: NotRequired[Ratio]


class Snapshot(TypedDict):
    """One point of a learning curve; ``validation_s`` is seconds per token."""

    steps: int
    validation_s: float
    cpu_s: NotRequired[float]
    chosen: NotRequired[bool]
    form: NotRequired[str]  #: of a recipe with more than one learner: whose snapshot it is


class ReferenceCurve(TypedDict):
    """How another recipe learnt on the same scenario; ``earlier``: not in this run.

    A recipe that could not learn there has an empty curve and the ``reason``.
    """

    curve: list[Snapshot]
    reason: NotRequired[str]
    earlier: NotRequired[bool]
    commit: NotRequired[str | None]
    machine: NotRequired[str]


class LoadSweep(TypedDict):
    """See ``rlkv_agents.load_sweep``."""

    rates_per_s: list[float]
    policies: dict[str, list[float | None]]
    empty_s: NotRequired[dict[str, float]]
    limit_s: NotRequired[float]
    sustainable_rate_per_s: NotRequired[dict[str, float | None]]
    sustainable_side: NotRequired[dict[str, str]]


class DecisionMap(TypedDict):
    """See ``rlkv_agents.decision_map``."""

    remaining_s: list[float]
    context_ratio: list[float]
    verb: list[list[int]]
    met: NotRequired[list[tuple[float, float]]]


class Timeline(TypedDict):
    """See ``rlkv_agents.timeline``."""

    t_s: list[float]
    running: list[float]
    paused: list[float]
    reclaimable: list[float]
    pending: list[float]
    free: list[float]
    host: list[float]


class RequesterDepartures(TypedDict):
    """Shares of decisions; a direction is rule verb, policy verb and share."""

    decisions: float
    departed: float
    directions: list[tuple[int, int, float]]


class DeparturesBin(TypedDict):
    """Shares within a bin of a quantity; ``verbs``: of departures to each verb."""

    decisions: float
    departed: float
    verbs: list[float]


class QuantityDepartures(TypedDict):
    """Departures by bins of one quantity, for each that asks."""

    title: str
    unit: str
    edges: list[float]
    requesters: dict[str, list[DeparturesBin]]


class Departures(TypedDict):
    """See ``rlkv_agents.departures``."""

    departed: float
    requesters: dict[str, RequesterDepartures]
    quantities: dict[str, QuantityDepartures]


class TreeDescription(TypedDict):
    """See ``rlkv.report.tree_text``."""

    requester: str
    who: str
    decisions: float
    agreement: float | None
    departed: float
    lines: list[str]


class ComparedLatency(TypedDict):
    """Rule, policy or trees on held-out traces, seconds per token."""

    mean_s: float
    ci95: tuple[float, float]
    ratio_to_rule: Ratio
    ratio_to_policy: Ratio


class Explanation(TypedDict):
    """See ``rlkv.explain``."""

    policy: str
    kind: str
    rule: str
    mean_pause_s: float
    departures: Departures
    constants: NotRequired[dict[str, float]]
    device_tokens: NotRequired[int]
    decision_seeds: NotRequired[list[int]]
    test_seeds: NotRequired[list[int]]
    trees: NotRequired[list[TreeDescription]]
    depth: NotRequired[int | None]
    validation: NotRequired[dict[str, dict[str, float]]]
    latency: NotRequired[dict[str, ComparedLatency]]
    saved: NotRequired[str]


class Record(TypedDict):
    """A run on one scenario; ``also`` holds the same for further scenarios."""

    version: int
    scenario: str
    policies: dict[str, PolicyFigures]
    profile: NotRequired[str]
    workload: NotRequired[str]
    rate_per_s: NotRequired[float]
    num_sessions: NotRequired[int]
    split: NotRequired[str]
    seeds: NotRequired[list[int]]
    learned: NotRequired[str | None]
    best_rule: NotRequired[str | None]
    learning_curve: NotRequired[list[Snapshot]]
    reference_curves: NotRequired[dict[str, ReferenceCurve]]
    validation_rules_s: NotRequired[dict[str, float]]
    load_sweep: NotRequired[LoadSweep | None]
    decision_maps: NotRequired[dict[str, dict[str, DecisionMap | None]]]
    timeline: NotRequired[dict[str, Timeline]]
    explanation: NotRequired[Explanation]
    also: NotRequired[list[Any]]
    commit: NotRequired[str | None]
    command: NotRequired[str]
    machine: NotRequired[str]
    wall_s: NotRequired[float]


def scenarios(record: Record) -> list[Record]:
    """The record and those of its further scenarios, in order."""
    return [record, *record.get("also", [])]


def competitors(record: Record) -> dict[str, PolicyFigures]:
    """Policies that do not see the future, lowest mean latency first."""
    return _by_latency(record, sees_future=False)


def bounds(record: Record) -> dict[str, PolicyFigures]:
    """Policies that see the future, lowest mean latency first."""
    return _by_latency(record, sees_future=True)


def learned_name(record: Record) -> str | None:
    """The learned policy, if the record holds one."""
    name = record.get("learned")
    return name if name in record["policies"] else None


def best_rule_name(record: Record) -> str | None:
    """The best rule as the record has it; else that of the lowest mean latency."""
    name = record.get("best_rule")
    if name in record["policies"]:
        return name
    rules = [rule for rule in competitors(record) if rule != record.get("learned")]
    return rules[0] if rules else None


def ratio_to_best_rule(record: Record, name: str) -> Ratio | None:
    """The ratio that the record holds; without one that of the means, which has no interval."""
    figures = record["policies"][name]
    if "ratio_to_best_rule" in figures:
        return figures["ratio_to_best_rule"]
    best = best_rule_name(record)
    base = record["policies"][best]["normalized_latency_s"]["mean"] if best else 0.0
    return {"ratio": figures["normalized_latency_s"]["mean"] / base} if base > 0 else None


def _by_latency(record: Record, sees_future: bool) -> dict[str, PolicyFigures]:
    chosen = [
        (name, figures)
        for name, figures in record["policies"].items()
        if figures.get("sees_future", False) == sees_future
    ]
    return dict(sorted(chosen, key=lambda item: item[1]["normalized_latency_s"]["mean"]))
