"""What Prometheus reads of a proxy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from rlkv_service.client.counts import Counts

#: Seconds.
_FIRST_BYTE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PAUSE_S = (0.01, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class Figures:
    """Counters of one proxy, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"namespace": "rlkv_proxy", "registry": self.registry}
        self.requests = Counter(
            "requests_total", "Requests, by API and by the status that clients saw.",
            ["api", "status"], **own,
        )  # fmt: skip
        self.first_byte_s = Histogram(
            "first_byte_seconds", "From a request to the head of the backend's response.",
            ["api"], buckets=_FIRST_BYTE_S, **own,
        )  # fmt: skip
        self.backend_failures = Counter(
            "backend_failures_total", "Requests that the backend failed, by how.", ["kind"], **own
        )
        self.turns = Counter(
            "turns_total", "Requests of sessions, by what came of them.", ["end"], **own
        )
        self.begun_sessions = Counter(
            "begun_sessions_total", "Sessions that began, by who gave the name.", ["by"], **own
        )
        self.ended_sessions = Counter(
            "ended_sessions_total", "Sessions that ended, by why.", ["reason"], **own
        )
        self.resumes = Counter(
            "resumes_total", "Turns of known sessions, by how these were found.", ["by"], **own
        )
        self.unread = Counter(
            "unread_total", "Requests and answers that passed unread, by why.", ["why"], **own
        )
        self.hinted = Counter("hinted_requests_total", "Requests that carry hints.", **own)
        self.pause_s = Histogram("pause_seconds", "Pauses.", buckets=_PAUSE_S, **own)
        self.sessions = Gauge("sessions", "Sessions, by what they do.", ["state"], **own)
        self.upstream = Gauge("backend_requests", "Requests that the backend is answering.", **own)
        self.errors = Counter("errors_total", "Errors of the proxy that cost a hint.", **own)


def figures_text(
    figures: Figures,
    totals: Mapping[str, Mapping[str, int]],
    client: Counts | None,
) -> bytes:
    """Everything in Prometheus' text format.

    Args:
        figures: counted where it happens.
        totals: counted elsewhere, by name and by what became of it.
        client: of the sidecar's client; None: there is none.
    """
    registry = CollectorRegistry()
    registry.register(_Totals(totals, client))
    return generate_latest(figures.registry) + generate_latest(registry)


class _Totals(Collector):
    def __init__(self, totals: Mapping[str, Mapping[str, int]], client: Counts | None) -> None:
        self._totals, self._client = totals, client

    def collect(self) -> Iterator[Any]:
        for name, numbers in self._totals.items():
            family = CounterMetricFamily(f"rlkv_proxy_{name}", name, labels=["result"])
            for result, number in numbers.items():
                family.add_metric([result], number)
            yield family
        if self._client is None:
            return
        decisions = CounterMetricFamily(
            "rlkv_proxy_decisions", "Verdicts, by who decided and why.", labels=["reason"]
        )
        for reason, number in self._client.by_reason.items():
            decisions.add_metric([reason.name], number)
        yield decisions
        messages = CounterMetricFamily(
            "rlkv_proxy_reports", "Outcomes and ends, by what became of them.", labels=["result"]
        )
        messages.add_metric(["written"], self._client.outcomes_written)
        messages.add_metric(["dropped"], self._client.outcomes_dropped)
        yield messages
