"""Gathers what the live page shows: differences of counters, the latest decisions and outcomes."""

from __future__ import annotations

import math
import time
from collections import deque
from itertools import pairwise
from typing import Any

from rlkv_service.decision_api.decision_bodies import REASON_NAMES
from rlkv_service.decision_api.live_regret import RegretBook
from rlkv_service.decision_api.live_snapshot import (
    LiveBucket,
    LiveDecision,
    LiveLatency,
    LivePolicy,
    LivePools,
    LiveSidecar,
    Snapshot,
)
from rlkv_service.decision_api.live_tools import LiveTools
from rlkv_service.decision_api.outcome_tail import OutcomeTail
from rlkv_service.redis_errors import RedisError
from rlkv_service.schema import Verb
from rlkv_service.sidecar.counters import DECIDERS, Counts, Histogram
from rlkv_service.sidecar.recent import RecentDecision
from rlkv_service.sidecar.service import DecisionService

#: Seconds that the page looks back.
WINDOW_S = 60
_NUM_TOOLS = 10
_NUM_LATEST = 12
#: Decisions that are looked at in a second, of those that the service keeps.
_MAX_DECISIONS = 2000


class LiveFigures:
    """A snapshot a second. Not for several threads at once.

    Args:
        service: that decides.
    """

    def __init__(self, service: DecisionService) -> None:
        self._service = service
        self._tail = OutcomeTail(service.url, service.keys)
        self._counted: deque[tuple[float, Counts]] = deque(maxlen=WINDOW_S + 1)
        self._tools, self._regret = LiveTools(), RegretBook()
        self._sidecars: dict[str, Any] = {}
        self._latest_s = 0.0  # of the decisions that have been seen

    def close(self) -> None:
        """Ends the connection to the store."""
        self._tail.close()

    def tick(self) -> Snapshot:
        """What is to be shown now."""
        service, at_s = self._service, time.time()
        self._counted.append((time.monotonic(), service.counters.counts()))
        decisions = service.recent.decisions(_MAX_DECISIONS)
        self._regret.decided(reversed([each for each in decisions if each.at_s > self._latest_s]))
        self._latest_s = decisions[0].at_s if decisions else 0.0
        problem = self._look_at_store()
        (first_s, first), (last_s, last) = self._counted[0], self._counted[-1]
        info = service.policy
        rates = self._rates()
        return Snapshot(
            at_s=at_s,
            window_s=last_s - first_s,
            policy=LivePolicy(
                info.name, info.version, info.shadow, info.min_confidence, info.loaded_s
            ),
            decisions_per_s=_by(rates, 0, [verb.name for verb in Verb]),
            decided_per_s=_by(rates, 1, DECIDERS),
            history=self._history(),
            requests=_since(first.requests, last.requests),
            reasons={
                name: number
                for name, number in _since(first.reasons, last.reasons).items()
                if name in REASON_NAMES
            },
            latency=_latency(_between(first.decision_seconds, last.decision_seconds)),
            confidence=_buckets(_between(first.confidence_ratio, last.confidence_ratio)),
            departures=last.confidence_ratio.count - first.confidence_ratio.count,
            decisions=sum(last.decisions.values()) - sum(first.decisions.values()),
            pools=self._pools(at_s),
            tools=self._tools.slowest(_NUM_TOOLS, service.estimates),
            regret=self._regret.rows(),
            latest=[_told(each) for each in decisions[:_NUM_LATEST]],
            sidecars=[_sidecar(name, said, at_s) for name, said in sorted(self._sidecars.items())],
            queue_requests=last.queue_requests,
            outcomes=sum(last.outcomes.values()),
            log_failures=last.log_failures,
            store_problem=problem,
        )

    def _look_at_store(self) -> str:
        try:
            outcomes, self._sidecars = self._tail.poll()
        except RedisError as error:
            return str(error)
        for outcome in outcomes:
            self._tools.add(outcome)
            self._regret.came_out(outcome)
        return ""

    def _rates(self) -> dict[tuple[str, str], float]:
        if len(self._counted) < 2:
            return dict.fromkeys(self._counted[-1][1].decisions, 0.0)
        return _per_s(self._counted[-2], self._counted[-1])

    def _history(self) -> list[tuple[float, float, float]]:
        counted = list(self._counted)
        told = []
        for before, after in pairwise(counted):
            rates = _by(_per_s(before, after), 0, [verb.name for verb in Verb])
            told.append(tuple(round(rates[verb.name], 1) for verb in Verb))
        return told  # type: ignore[return-value]

    def _pools(self, at_s: float) -> list[LivePools]:
        return [
            LivePools(
                each.engine_id,
                max(0.0, at_s - each.at_s),
                each.num_device_blocks,
                each.free_blocks,
                each.reclaimable_blocks,
                each.paused_blocks,
                each.num_host_blocks,
                each.host_free_blocks,
            )
            for each in sorted(self._service.recent.pools(), key=lambda each: each.engine_id)
        ]


def _per_s(
    before: tuple[float, Counts], after: tuple[float, Counts]
) -> dict[tuple[str, str], float]:
    seconds = max(1e-9, after[0] - before[0])
    old, new = before[1].decisions, after[1].decisions
    return {key: (number - old[key]) / seconds for key, number in new.items()}


def _by(rates: dict[tuple[str, str], float], place: int, names: Any) -> dict[str, float]:
    return {name: sum(rate for key, rate in rates.items() if key[place] == name) for name in names}


def _since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: number - before[name] for name, number in after.items()}


def _between(before: Histogram, after: Histogram) -> Histogram:
    counts = (new - old for old, new in zip(before.counts, after.counts, strict=True))
    return Histogram(after.edges, tuple(counts), after.sum - before.sum)


def _latency(seconds: Histogram) -> LiveLatency:
    num = seconds.count
    mean_s = seconds.sum / num if num else None
    return LiveLatency(within(seconds, 0.5), within(seconds, 0.99), mean_s, num)


def within(histogram: Histogram, share: float) -> float | None:
    """A quantile, taken to lie evenly in its bucket; None without anything counted."""
    wanted, seen, low = share * histogram.count, 0, 0.0
    for edge, count in zip((*histogram.edges, math.inf), histogram.counts, strict=True):
        if count and seen + count >= wanted:
            return low if edge == math.inf else low + (edge - low) * (wanted - seen) / count
        seen, low = seen + count, edge
    return None


def _buckets(confidence: Histogram) -> list[LiveBucket]:
    # The last bucket lies above 1, where no confidence is.
    return [
        LiveBucket(edge, count)
        for edge, count in zip(confidence.edges, confidence.counts, strict=False)
    ]


def _told(each: RecentDecision) -> LiveDecision:
    return LiveDecision(
        each.at_s, each.engine_id, each.session, each.tool, each.point, each.verb, each.reason,
        each.confidence, each.context_tokens,
    )  # fmt: skip


def _sidecar(name: str, said: Any, at_s: float) -> LiveSidecar:
    told = said if isinstance(said, dict) else {}
    seen_s = told.get("at_s")
    age_s = max(0.0, at_s - seen_s) if isinstance(seen_s, int | float) else None
    return LiveSidecar(name, age_s, str(told.get("policy_version", "")))
