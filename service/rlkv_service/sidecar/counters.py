"""What a sidecar has done, counted: one object that Prometheus and the live page read."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlkv_service.columns import VerdictRows
from rlkv_service.schema import Reason, Verb
from rlkv_service.sidecar.compiled_counts import count_rows

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
    outcomes: dict[str, int]  #: one of ``OUTCOME_KINDS`` -> messages that were learnt from
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
        self._shadow = np.zeros(1, np.int64)
        self._log_failures = self._queue_requests = 0

    def decided(self, verdicts: Sequence[VerdictRows]) -> None:
        """Verdicts that were given."""
        with self._lock:
            for rows in verdicts:
                self._confidence.sum += count_rows(
                    rows.verb, rows.fallback_used, rows.reason, rows.policy_verb, rows.rule_verb,
                    rows.confidence, _CONFIDENCE_EDGES, self._decisions, self._reasons,
                    self._confidence.counts, self._shadow,
                )  # fmt: skip

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
        """Outcomes or ends that were learnt from, whoever reported them."""
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
                int(self._shadow[0]),
                self._queue_requests,
            )


class _Buckets:
    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges, self.sum = edges, 0.0
        self.counts = np.zeros(len(edges) + 1, np.int64)

    def add(self, value: float, num: int = 1) -> None:
        self.counts[bisect_left(self._edges, value)] += num
        self.sum += value * num

    def histogram(self) -> Histogram:
        return Histogram(self._edges, tuple(self.counts.tolist()), self.sum)


_CONFIDENCE_EDGES = np.array(CONFIDENCE_RATIO)
