"""What a sidecar has done, counted: one object that Prometheus and the live page read."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_service.columns import VerdictRows
from rlkv_service.schema import Reason, Verb

#: What became of requests, over Redis; one over HTTP is ``answered`` or ``malformed``.
REQUEST_RESULTS = ("answered", "late", "refused", "malformed")
DECIDERS = ("policy", "rule")
OUTCOME_KINDS = ("outcome", "end")
RELOAD_RESULTS = ("loaded", "refused")
#: Upper edges of buckets; the last one is infinite.
DECISION_SECONDS = (
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
)  # fmt: skip
CONFIDENCE_RATIO = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram at one moment."""

    edges: tuple[float, ...]  #: upper ones of the buckets but for the last, which has none
    counts: tuple[int, ...]  #: [len(edges) + 1], of each bucket alone
    sum: float

    @property
    def count(self) -> int:
        """Of all buckets."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The upper edge of the bucket that a quantile lies in; NaN where nothing was counted."""
        seen, wanted = 0, share * self.count
        for edge, count in zip((*self.edges, float("inf")), self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return edge
        return float("nan")


@dataclass(frozen=True, slots=True)
class Counts:
    """All counters at one moment, since the start."""

    decisions: dict[tuple[str, str], int]  #: (verb, one of ``DECIDERS``) -> rows
    reasons: dict[str, int]  #: name of a ``schema.Reason`` -> rows
    requests: dict[str, int]  #: one of ``REQUEST_RESULTS`` -> requests
    decision_seconds: Histogram  #: server-side time of a request
    confidence_ratio: Histogram  #: of rows where the policy would leave the rule
    outcomes: dict[str, int]  #: one of ``OUTCOME_KINDS`` -> messages that were new
    reloads: dict[str, int]  #: one of ``RELOAD_RESULTS`` -> bundles
    log_failures: int
    shadow_departures: int  #: rows where a policy that only watches would have left the rule
    queue_requests: int  #: that wait in Redis, when they were last counted


class Counters:
    """Counts; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decisions = np.zeros((2, len(Verb)), np.int64)  # [rule or policy, verb]
        self._reasons = np.zeros(len(Reason), np.int64)
        self._requests = dict.fromkeys(REQUEST_RESULTS, 0)
        self._outcomes = dict.fromkeys(OUTCOME_KINDS, 0)
        self._reloads = dict.fromkeys(RELOAD_RESULTS, 0)
        self._seconds = _Buckets(DECISION_SECONDS)
        self._confidence = _Buckets(CONFIDENCE_RATIO)
        self._log_failures = self._shadow_departures = self._queue_requests = 0

    def decided(self, verdicts: Sequence[VerdictRows]) -> None:
        """Verdicts that were given."""
        verb, by_rule, reason, leaves, sure = (
            np.concatenate(columns)
            for columns in zip(*(_counted(rows) for rows in verdicts), strict=True)
        )
        kinds = len(Verb) * (by_rule == 0) + verb
        decisions = np.bincount(kinds, minlength=2 * len(Verb)).reshape(2, len(Verb))
        reasons = np.bincount(reason, minlength=len(Reason))
        confidences = np.searchsorted(CONFIDENCE_RATIO, sure[leaves])
        confidence = np.bincount(confidences, minlength=len(CONFIDENCE_RATIO) + 1)
        shadowed = int((leaves & (reason == Reason.SHADOW)).sum())
        with self._lock:
            self._decisions += decisions
            self._reasons += reasons
            self._confidence.merge(confidence, float(sure[leaves].sum()))
            self._shadow_departures += shadowed

    def answered(self, seconds: float, num: int = 1) -> None:
        """Requests that were answered together, each after ``seconds``."""
        with self._lock:
            self._requests["answered"] += num
            self._seconds.add(seconds, num)

    def dropped(self, result: str, num: int = 1) -> None:
        """Requests that got no verdict: ``late``, ``refused`` or ``malformed``."""
        with self._lock:
            self._requests[result] += num

    def recorded(self, kind: str, num: int = 1) -> None:
        """Outcomes or ends that were new."""
        with self._lock:
            self._outcomes[kind] += num

    def reloaded(self, result: str) -> None:
        """A changed bundle was ``loaded`` or ``refused``."""
        with self._lock:
            self._reloads[result] += 1

    def log_failed(self, num: int = 1) -> None:
        """Entries that are not in the log of decisions."""
        with self._lock:
            self._log_failures += num

    def queue(self, num: int) -> None:
        """So many requests wait."""
        with self._lock:
            self._queue_requests = num

    def counts(self) -> Counts:
        """Everything at this moment."""
        with self._lock:
            decisions = {
                (verb.name, who): int(self._decisions[1 - place, verb])
                for place, who in enumerate(DECIDERS)
                for verb in Verb
            }
            return Counts(
                decisions,
                {reason.name: int(self._reasons[reason]) for reason in Reason},
                dict(self._requests),
                self._seconds.histogram(),
                self._confidence.histogram(),
                dict(self._outcomes),
                dict(self._reloads),
                self._log_failures,
                self._shadow_departures,
                self._queue_requests,
            )


class _Buckets:
    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges, self._sum = edges, 0.0
        self._counts = np.zeros(len(edges) + 1, np.int64)

    def add(self, value: float, num: int = 1) -> None:
        self._counts[bisect_left(self._edges, value)] += num
        self._sum += value * num

    def merge(self, counts: NDArray[np.int64], total: float) -> None:
        self._counts += counts
        self._sum += total

    def histogram(self) -> Histogram:
        return Histogram(self._edges, tuple(self._counts.tolist()), self._sum)


def _counted(rows: VerdictRows) -> tuple[NDArray[Any], ...]:
    leaves = rows.policy_verb != rows.rule_verb
    return rows.verb, rows.fallback_used, rows.reason, leaves, rows.confidence
