"""What the live page is told once a second."""

from __future__ import annotations

import msgspec


class LivePolicy(msgspec.Struct):
    """The bundle that decides."""

    name: str
    version: str
    shadow: bool
    min_confidence: float
    loaded_s: float


class LiveLatency(msgspec.Struct):
    """Server-side time of a request, over the window; null without requests."""

    p50_s: float | None
    p99_s: float | None
    mean_s: float | None
    requests: int


class LiveBucket(msgspec.Struct):
    """Decisions with a confidence up to an edge, above the one before."""

    up_to: float
    decisions: int


class LivePools(msgspec.Struct):
    """An engine as its last request told it, blocks."""

    engine_id: str
    age_s: float
    device_blocks: int
    free_blocks: int
    reclaimable_blocks: int
    paused_blocks: int
    host_blocks: int
    host_free_blocks: int


class LiveTool(msgspec.Struct):
    """Pauses for a tool: predicted when one begins, and the latest that were seen."""

    tool: str
    pauses: int
    seen_p50_s: float
    seen_p90_s: float
    predicted_p50_s: float | None
    predicted_p90_s: float | None


class LiveRegret(msgspec.Struct):
    """Pauses whose outcome is known, by what the rule and the policy said of them."""

    rule_verb: str
    policy_verb: str
    pauses: int
    mean_delay_s: float


class LiveDecision(msgspec.Struct):
    """One of the latest decisions."""

    at_s: float
    engine_id: str
    session: str
    tool: str
    point: str
    verb: str
    reason: str
    confidence: float | None
    context_tokens: int


class LiveSidecar(msgspec.Struct):
    """A sidecar that shares the queue."""

    sidecar_id: str
    age_s: float | None
    policy_version: str


class Snapshot(msgspec.Struct):
    """One event. Rates are of the last second; ``window_s`` is what the rest covers."""

    at_s: float
    window_s: float
    policy: LivePolicy
    decisions_per_s: dict[str, float]  #: by verb
    decided_per_s: dict[str, float]  #: by who decided
    history: list[tuple[float, float, float]]  #: decisions/s by verb, each second, oldest first
    requests: dict[str, int]
    reasons: dict[str, int]
    latency: LiveLatency
    confidence: list[LiveBucket]
    departures: int
    decisions: int
    pools: list[LivePools]
    tools: list[LiveTool]
    regret: list[LiveRegret]
    latest: list[LiveDecision]
    sidecars: list[LiveSidecar]
    queue_requests: int
    outcomes: int
    log_failures: int
    store_problem: str  #: empty: Redis answers
