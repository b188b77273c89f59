from __future__ import annotations

import logging

import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import supports_hma

from rlkv_service.adapters.vllm import plugin
from rlkv_service.adapters.vllm.connector import RlkvConnector
from rlkv_service.adapters.vllm.metrics import (
    SPENT_US,
    RlkvPromMetrics,
    RlkvStats,
    StatsDeltas,
)
from tests.vllm.engine import TestEngine, tokens


def test_it_is_found_by_name_and_by_module() -> None:
    plugin.register()
    plugin.register()  # as vLLM may
    by_name = KVTransferConfig(kv_connector="RlkvConnector", kv_role="kv_both")
    by_module = KVTransferConfig(
        kv_connector="RlkvConnector",
        kv_connector_module_path="rlkv_service.adapters.vllm.connector",
        kv_role="kv_both",
    )
    for config in (by_name, by_module):
        assert KVConnectorFactory.get_connector_class(config) is RlkvConnector
        assert KVConnectorFactory.supports_hma_config(config)
    assert supports_hma(RlkvConnector)


def test_a_registry_that_has_changed_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("vllm.rlkv"), "handlers", [handler])
    monkeypatch.delattr(KVConnectorFactory, "_registry")
    monkeypatch.delattr(KVConnectorFactory, "register_connector")
    plugin.register()
    assert len(said) == 1 and said[0].startswith("rlkv is off") and "\n" not in said[0]


def test_stats_add_up() -> None:
    deltas = StatsDeltas()
    first = deltas.since({"returned": 2, "decisions:SWAP:RULE": 1}, {"host_blocks": 5})
    assert first is not None and not first.is_empty()
    assert deltas.since({"returned": 2, "decisions:SWAP:RULE": 1}, {"host_blocks": 5}) is None
    # Its own time passes with every step, and is no news by itself.
    idle = {"returned": 2, "decisions:SWAP:RULE": 1, SPENT_US: 40}
    assert deltas.since(idle, {"host_blocks": 5}) is None
    busy = {"returned": 5, "decisions:SWAP:RULE": 1, SPENT_US: 70}
    second = deltas.since(busy, {"host_blocks": 7})
    assert second is not None and second.data["counts"] == {"returned": 3, SPENT_US: 70}
    both = RlkvConnector.build_kv_connector_stats(first.to_dict())
    assert both is not None
    both = both.aggregate(second)
    assert both.reduce() == {
        "returned": 5, "decisions:SWAP:RULE": 1, SPENT_US: 70, "host_blocks": 7
    }  # fmt: skip
    assert RlkvStats().is_empty()


def test_prometheus_has_them() -> None:
    class Config:
        kv_transfer_config = None

    metrics = RlkvPromMetrics(
        Config(), {Counter: Counter, Gauge: Gauge, Histogram: Histogram}, ["engine"], {0: ["0"]}
    )
    metrics.observe(
        {"counts": {"decisions:SWAP:RULE": 3, "returned": 2}, "gauges": {"host_blocks": 4}}
    )
    metrics.observe({"counts": {"returned": 1, SPENT_US: 2500}, "gauges": {"host_blocks": 1}})

    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"engine": "0", **labels})

    assert value("rlkv_decisions_total", verb="SWAP", source="RULE") == 3
    assert value("rlkv_events_total", event="returned") == 3
    assert value("rlkv_held", kind="host_blocks") == 1
    assert value("rlkv_plugin_seconds_total") == 0.0025


def test_an_engines_stats_are_the_keepers_counts(engine: TestEngine) -> None:
    engine.connector.get_kv_connector_stats()
    engine.ask(tokens(1, 200), 2, session="a", hint={"verb": "swap"})
    stats = engine.connector.get_kv_connector_stats()
    # vLLM has taken what there was with every step, so little is left; it adds up all the same.
    assert stats is None or isinstance(stats, RlkvStats)
    counts = dict(engine.connector._deltas._counts)
    assert counts.pop(SPENT_US) > 0
    assert counts == engine.counts
