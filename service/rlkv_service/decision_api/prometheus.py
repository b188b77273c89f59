"""What Prometheus reads: the service's counters, and those of HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from rlkv_service.decision_api.http_figures import HttpFigures
from rlkv_service.sidecar.counters import Counts, Histogram
from rlkv_service.sidecar.service import DecisionService

PROMETHEUS_TYPE = "text/plain; version=0.0.4"


def prometheus_text(service: DecisionService, http: HttpFigures) -> bytes:
    """Everything at this moment, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Counted(service.counters.counts(), service.policy.version))
    return generate_latest(registry) + generate_latest(http.registry)


class _Counted(Collector):
    def __init__(self, counts: Counts, policy_version: str) -> None:
        self._counts, self._version = counts, policy_version

    def collect(self) -> Iterator[Any]:
        counts = self._counts
        decisions = CounterMetricFamily(
            "rlkv_decisions",
            "Decisions, by verb and by who decided.",
            labels=["verb", "decided_by"],
        )
        for (verb, who), number in counts.decisions.items():
            decisions.add_metric([verb, who], number)
        yield decisions
        for name, help_, label, numbers in (
            ("requests", "Requests, by what became of them.", "result", counts.requests),
            ("decision_reasons", "Decisions, by why who decided.", "reason", counts.reasons),
            ("outcomes", "Outcomes and ends that were new.", "kind", counts.outcomes),
            ("bundle_reloads", "Changed bundles, by what became of them.", "result",
             counts.reloads),
        ):  # fmt: skip
            family = CounterMetricFamily(f"rlkv_{name}", help_, labels=[label])
            for value, number in numbers.items():
                family.add_metric([value], number)
            yield family
        yield _histogram(
            "rlkv_decision_seconds", "Server-side time of a request.", counts.decision_seconds
        )
        yield _histogram(
            "rlkv_confidence_ratio",
            "Confidence where the policy would leave the rule.",
            counts.confidence_ratio,
        )
        yield CounterMetricFamily(
            "rlkv_log_failures", "Entries that the log of decisions lacks.", counts.log_failures
        )
        yield CounterMetricFamily(
            "rlkv_shadow_departures",
            "Decisions where a policy that only watches would have left the rule.",
            counts.shadow_departures,
        )
        yield GaugeMetricFamily(
            "rlkv_queue_requests", "Requests that wait in Redis.", counts.queue_requests
        )
        info = GaugeMetricFamily("rlkv_policy_info", "The bundle that decides.", labels=["version"])
        info.add_metric([self._version], 1)
        yield info


def _histogram(name: str, help_: str, histogram: Histogram) -> HistogramMetricFamily:
    edges = [str(float(edge)) for edge in histogram.edges] + ["+Inf"]
    buckets = list(zip(edges, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(name, help_, buckets=buckets, sum_value=histogram.sum)
