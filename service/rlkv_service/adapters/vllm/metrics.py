"""Counts of the plug-in on vLLM's own way: its log line and its ``/metrics``.

Read in vLLM 0.32.0: ``distributed/kv_transfer/kv_connector/v1/metrics.py`` and, as an example,
``v1/simple_kv_offload/metrics.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

_COUNTS, _GAUGES = "counts", "gauges"
_DECISIONS = "decisions:"
#: A count that every step adds to: alone it is no news.
SPENT_US = "spent_us"


class RlkvStats(KVConnectorStats):
    """``data``: counts since the last one, by name, and gauges as they are."""

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        super().__init__(data=data or {})
        if not self.data:
            self.reset()

    @classmethod
    def of(cls, counts: Mapping[str, int], gauges: Mapping[str, int]) -> RlkvStats:
        """Stats to be sent."""
        return cls({_COUNTS: dict(counts), _GAUGES: dict(gauges)})

    def reset(self) -> None:
        """Nothing has happened."""
        self.data: dict[str, Any] = {_COUNTS: {}, _GAUGES: {}}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Adds what happened later."""
        for name, num in other.data.get(_COUNTS, {}).items():
            self.data[_COUNTS][name] = self.data[_COUNTS].get(name, 0) + num
        self.data[_GAUGES] |= other.data.get(_GAUGES, {})
        return self

    def reduce(self) -> dict[str, int | float]:
        """For the log line."""
        numbers: dict[str, int | float] = {**self.data[_COUNTS], **self.data[_GAUGES]}
        return numbers

    def is_empty(self) -> bool:
        """Whether there is nothing to say."""
        return not self.data.get(_COUNTS) and not self.data.get(_GAUGES)


class RlkvPromMetrics(KVConnectorPromMetrics):
    """Decisions, other events, what is held, and the time that the plug-in takes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._decisions = self._counter_cls(
            name="rlkv_decisions_total",
            documentation="Verdicts applied to paused sessions, by verb and by who gave them.",
            labelnames=[*self._labelnames, "verb", "source"],
        )
        self._events = self._counter_cls(
            name="rlkv_events_total",
            documentation="Whatever else the plug-in counts: blocks, tokens, requests, by event.",
            labelnames=[*self._labelnames, "event"],
        )
        self._seconds = self._counter_cls(
            name="rlkv_plugin_seconds_total",
            documentation="Time of the engine's scheduler that the plug-in has taken.",
            labelnames=self._labelnames,
        )
        self._held = self._gauge_cls(
            name="rlkv_held",
            documentation="What is held now: blocks of a tier, or sessions, by kind.",
            labelnames=[*self._labelnames, "kind"],
            multiprocess_mode="mostrecent",
        )

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Adds stats to the metrics."""
        labels = self.per_engine_labelvalues[engine_idx]
        for name, num in transfer_stats_data.get(_COUNTS, {}).items():
            if name.startswith(_DECISIONS):
                _, verb, source = name.split(":")
                self._decisions.labels(*labels, verb, source).inc(num)
            elif name == SPENT_US:
                self._seconds.labels(*labels).inc(num * 1e-6)
            else:
                self._events.labels(*labels, name).inc(num)
        for name, num in transfer_stats_data.get(_GAUGES, {}).items():
            self._held.labels(*labels, name).set(num)


class StatsDeltas:
    """Turns counts that grow into what was added since the last look."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._gauges: dict[str, int] = {}

    def since(self, counts: Mapping[str, int], gauges: Mapping[str, int]) -> RlkvStats | None:
        """Stats to be sent; None: nothing has changed."""
        new = {name: num - self._counts.get(name, 0) for name, num in counts.items()}
        new = {name: num for name, num in new.items() if num > 0}
        if not new.keys() - {SPENT_US} and gauges == self._gauges:
            return None
        self._counts, self._gauges = dict(counts), dict(gauges)
        return RlkvStats.of(new, gauges)
