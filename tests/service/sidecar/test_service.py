"""What the decision API asks: decisions with their log, outcomes, and what was counted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from rlkv_engine.facts import MEAN_PAUSE_S, REMAINING_S
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_errors import RedisError
from rlkv_service.resp import RespConnection
from rlkv_service.schema import DecisionRequest, Outcome, Reason, SessionEnd, Verdicts, decode
from rlkv_service.sidecar.sidecar import Sidecar, SidecarOptions
from tests.service.sidecar.queue_client import QueueClient, rows_of_session, until
from tests.service.start_valkey import StartValkey


def outcome(session: str, turn: int = 0) -> Outcome:
    return Outcome(1, "engine", session, turn, "tool", 1.5, 100)


def test_decisions_are_logged_behind_the_back_of_who_asks(
    sidecar: Sidecar, client: QueueClient
) -> None:
    rows = rows_of_session("s", 4)
    verdicts = sidecar.service.decide("engine", rows)
    assert len(verdicts) == 4
    until(lambda: client.connection.execute("XLEN", client.keys.decisions) == 1, "no log")
    ((_, entry),) = client.connection.execute("XRANGE", client.keys.decisions, "-", "+")
    fields = dict(zip(entry[::2], entry[1::2], strict=True))
    assert decode(fields[b"q"], DecisionRequest).engine_id == "engine"
    assert decode(fields[b"a"], Verdicts).verb == verdicts.verb.tobytes()
    counts = sidecar.service.counters.counts()
    assert counts.requests["answered"] == 1 and counts.decision_seconds.count == 1
    assert sum(counts.reasons.values()) == 4


def test_outcomes_are_recorded_once(sidecar: Sidecar, client: QueueClient) -> None:
    service = sidecar.service
    assert service.record([outcome("a"), SessionEnd(1, "engine", "a")]) == [True, True]
    assert service.record([outcome("a"), outcome("a", 1)]) == [False, True]
    assert client.connection.execute("XLEN", client.keys.outcomes) == 3
    until(
        lambda: service.counters.counts().outcomes == {"outcome": 2, "end": 1}, "nothing is learnt"
    )
    client.connection.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert service.record([outcome("b")]) == [True]


def test_nothing_is_acknowledged_without_a_server(
    sidecar: Sidecar, valkey: EmbeddedValkey, start_valkey: StartValkey
) -> None:
    service = sidecar.service
    assert not service.not_ready
    valkey.kill()
    with pytest.raises(RedisError):
        service.record([outcome("a")])
    assert service.not_ready
    assert len(service.decide("engine", rows_of_session("s"))) == 3
    until(lambda: service.counters.counts().log_failures == 1, "the log's failure is not counted")
    again = start_valkey()
    assert service.record([outcome("a")]) == [True]
    with RespConnection(again.url) as connection:
        assert connection.execute("XLEN", service.keys.outcomes) == 1


def test_what_the_policy_would_have_done_is_counted(valkey: EmbeddedValkey, bundle: Path) -> None:
    with Sidecar(valkey.url, SidecarOptions(bundle, shadow=True)) as sidecar:
        verdicts = sidecar.service.decide("engine", rows_of_session("s", 200))
        departs = verdicts.policy_verb != verdicts.rule_verb
        counts = sidecar.service.counters.counts()
        assert counts.shadow_departures == departs.sum() > 0
        assert counts.reasons[Reason.SHADOW.name] == 200
        assert sum(n for (_, who), n in counts.decisions.items() if who == "rule") == 200
        for verb in range(3):
            name = ("PRESERVE", "SWAP", "DISCARD")[verb]
            assert counts.decisions[name, "rule"] == (verdicts.verb == verb).sum()
        histogram = counts.confidence_ratio
        assert histogram.count == departs.sum()
        np.testing.assert_allclose(histogram.sum, verdicts.confidence[departs].sum(), rtol=1e-5)
        below = (verdicts.confidence[departs] <= 0.5).sum()
        assert sum(histogram.counts[: histogram.edges.index(0.5) + 1]) == below
        assert sidecar.service.policy.shadow


def test_pools_and_decisions_are_shown(sidecar: Sidecar) -> None:
    service = sidecar.service
    for i in range(200):
        service.decide(f"engine-{i % 3}", rows_of_session(f"s{i}", 2))
    latest = service.recent.decisions(5)
    assert [(each.session, each.turn) for each in latest] == [
        ("s199", 1), ("s199", 0), ("s198", 1), ("s198", 0), ("s197", 1),
    ]  # fmt: skip
    assert {latest[0].verb, latest[0].rule_verb} <= {"PRESERVE", "SWAP", "DISCARD"}
    pools = service.recent.pools()
    assert [each.engine_id for each in pools] == ["engine-2", "engine-0", "engine-1"]
    assert pools[0].num_device_blocks == 4096
    assert len(service.recent.decisions(10_000)) == 2 * len(service.recent.rows())


def test_names_from_outside_do_not_fill_the_memory(sidecar: Sidecar) -> None:
    for i in range(500):
        sidecar.service.decide(f"engine-{i}", rows_of_session("s", 1))
    assert len(sidecar.service.recent.pools()) == 64


def test_pauses_are_learnt_from_outcomes_and_known_after_a_restart(
    valkey: EmbeddedValkey, bundle: Path
) -> None:
    rows = rows_of_session("s", 8)
    rows.facts[:, [REMAINING_S, MEAN_PAUSE_S]] = np.nan
    with Sidecar(valkey.url, SidecarOptions(bundle)) as sidecar:
        before = sidecar.service.decide("engine", rows)
        sidecar.service.record(
            [msgspec.structs.replace(outcome(f"past-{i}"), pause_s=600.0 + i) for i in range(200)]
        )
        until(lambda: sidecar.service.counters.counts().outcomes["outcome"] == 200, "not learnt")
        after = sidecar.service.decide("engine", rows)
    assert (after.expected_return_p90_s > 2.0 * before.expected_return_p90_s).all()
    with Sidecar(valkey.url, SidecarOptions(bundle)) as sidecar:
        until(
            lambda: np.allclose(
                sidecar.service.decide("engine", rows).expected_return_p50_s,
                after.expected_return_p50_s,
                rtol=0.05,
            ),
            "forgotten",
        )
        other = sidecar.service.decide("another engine", rows)
    np.testing.assert_array_equal(other.expected_return_p50_s, before.expected_return_p50_s)
