from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlkv_engine.errors import InputError
from rlkv_service.client import (
    BreakerSettings,
    Client,
    DecisionRows,
    LocalRule,
    Outcome,
    Reason,
    SessionEnd,
)
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.schema import decode
from tests.service.client import answering
from tests.service.client.answering import VERSION, Responder
from tests.service.client.asking import check_rows_match, outcome, rows_about, wait_until

#: Long, so that a busy machine does not make an answer late that is not meant to be.
PATIENT_MS = 20_000.0
QUICK = BreakerSettings(first_probe_s=0.01, max_probe_s=0.1, seed=0)


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[Client]:
    with Client(valkey.url, engine_id="engine", deadline_ms=PATIENT_MS, breaker=QUICK) as client:
        yield client


def recovers(client: Client) -> None:
    def answered() -> bool:
        rows = rows_about(7, 3)
        verdicts = client.decide(rows)
        check_rows_match(rows, verdicts)
        return bool((verdicts.reason < Reason.LATE).all())

    wait_until(answered, "an answer")


def test_rows_are_answered(responder: Responder, client: Client) -> None:
    for num in (1, 16, 128):
        rows = rows_about(num, num)
        verdicts = client.decide(rows)
        check_rows_match(rows, verdicts)
        assert set(verdicts.reason) == {Reason.POLICY}
        assert verdicts.policy_version == VERSION
    counts = client.counts
    assert counts.answered == counts.by_reason[Reason.POLICY] == 145
    assert counts.local == counts.discarded_answers == 0 and counts.last_error == ""


def test_more_rows_than_a_request_holds_are_split(responder: Responder, client: Client) -> None:
    rows = rows_about(1, 2500)
    verdicts = client.decide(rows)
    check_rows_match(rows, verdicts)
    assert set(verdicts.reason) == {Reason.POLICY}
    assert responder.num_taken == 3


def test_no_rows_have_no_verdicts(client: Client) -> None:
    assert len(client.decide(rows_about(1, 0))) == 0


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (answering.unreadable, Reason.MALFORMED),
        (answering.too_few_rows, Reason.MALFORMED),
        (answering.other_version, Reason.MALFORMED),
        (answering.client_reason, Reason.MALFORMED),
        (answering.refusal, Reason.REFUSED),
        (answering.garbage, Reason.MALFORMED),
        (answering.other_id, Reason.MISMATCHED),
        (answering.never, Reason.LATE),
    ],
    ids=lambda value: value.__name__ if callable(value) else value.name,
)
def test_an_answer_that_is_none_is_replaced_and_counted(
    responder: Responder, client: Client, script: answering.Script, reason: Reason
) -> None:
    recovers(client)
    responder.script = script
    rows = rows_about(3, 4)
    # Of the first five, the requests without an answer end with the deadline.
    verdicts = client.decide(rows, None if reason in (Reason.REFUSED,) else 200.0)
    assert set(verdicts.reason) == {reason}
    expected = LocalRule().verdicts(rows, reason)
    for name in ("verb", "lease_s", "soft_priority", "fallback_used", "expected_return_p50_s"):
        np.testing.assert_array_equal(getattr(verdicts, name), getattr(expected, name))
    assert client.counts.by_reason[reason] == 4
    responder.script = answering.answer
    recovers(client)


def test_a_late_answer_is_not_the_next_ones(responder: Responder, client: Client) -> None:
    recovers(client)
    responder.may_answer = threading.Semaphore(0)
    late = client.decide(rows_about(100, 2), deadline_ms=50.0)
    assert set(late.reason) == {Reason.LATE}
    responder.may_answer.release(1000)
    for first in (200, 300):
        rows = rows_about(first, 2)
        verdicts = client.decide(rows)
        check_rows_match(rows, verdicts)
        assert set(verdicts.reason) == {Reason.POLICY}
    counts = client.counts
    assert counts.discarded_answers == 1 and counts.by_reason[Reason.LATE] == 2


def test_a_dead_sidecar_is_not_asked_until_it_is_back(
    valkey: EmbeddedValkey, client: Client
) -> None:
    slow = BreakerSettings(max_failures=2, first_probe_s=5.0, max_probe_s=5.0, jitter_ratio=0.0)
    with Client(valkey.url, engine_id="engine", deadline_ms=100.0, breaker=slow) as impatient:
        reasons = [impatient.decide(rows_about(1)).reason[0] for _ in range(5)]
    assert reasons[2:] == [Reason.BREAKER_OPEN] * 3
    assert Reason.BREAKER_OPEN not in reasons[:2]
    for _ in range(3):
        client.decide(rows_about(1), deadline_ms=10.0)
    assert client.decide(rows_about(1)).reason[0] == Reason.BREAKER_OPEN
    with Responder(valkey.url):
        recovers(client)


def test_without_a_server_the_rule_answers_until_there_is_one(short_folder: Path) -> None:
    url = RedisURL(path=str(short_folder / "valkey.sock"))
    with Client(url, engine_id="engine", deadline_ms=PATIENT_MS, breaker=QUICK) as client:
        assert client.decide(rows_about(1)).reason[0] in (
            Reason.DISCONNECTED, Reason.BREAKER_OPEN,
        )  # fmt: skip
        assert "cannot be reached" in client.counts.last_error
        assert not client.report([outcome("early")], deadline_ms=1.0)
        server = EmbeddedValkey(short_folder)
        try:
            with Responder(server.url):
                recovers(client)
            wait_until(lambda: client.counts.outcomes_written == 1, "the outcome")
        finally:
            server.stop()


def test_outcomes_and_ends_are_written_once(valkey: EmbeddedValkey, client: Client) -> None:
    outcomes = [outcome("a"), outcome("b", 3)]
    end = SessionEnd(1, "engine", "a", 1)
    assert client.report(outcomes) and client.end([end]) and client.report(outcomes[:1])
    assert client.report([])
    with RespConnection(valkey.url) as connection:
        entries = connection.execute("XRANGE", RedisKeys().outcomes, "-", "+")
    messages = [fields[1] for _, fields in entries]
    assert [decode(raw, Outcome) for raw in messages[:2]] == outcomes
    assert decode(messages[2], SessionEnd) == end and len(messages) == 3
    counts = client.counts
    assert (counts.outcomes_written, counts.outcomes_waiting, counts.outcomes_dropped) == (4, 0, 0)


def test_closing_writes_what_waits(valkey: EmbeddedValkey) -> None:
    client = Client(valkey.url, engine_id="engine")
    client.report([outcome(f"s{i}") for i in range(1000)], deadline_ms=0.0)
    client.close()
    client.close()
    with RespConnection(valkey.url) as connection:
        assert connection.execute("XLEN", RedisKeys().outcomes) == 1000
    assert client.decide(rows_about(1)).reason[0] == Reason.DISCONNECTED


def test_a_thread_that_waits_for_another_does_not_miss_its_deadline(
    responder: Responder, client: Client
) -> None:
    recovers(client)
    responder.may_answer = threading.Semaphore(0)
    first = threading.Thread(target=client.decide, args=(rows_about(1),))
    taken = responder.num_taken
    first.start()
    wait_until(lambda: responder.num_taken > taken, "the first request")
    assert client.decide(rows_about(2), deadline_ms=20.0).reason[0] == Reason.NOT_ASKED
    responder.may_answer.release(1000)
    first.join(10.0)
    assert client.counts.by_reason[Reason.NOT_ASKED] == 1
    recovers(client)


def test_a_deadline_of_nothing_asks_nobody(responder: Responder, client: Client) -> None:
    recovers(client)
    taken = responder.num_taken
    assert set(client.decide(rows_about(1, 3), deadline_ms=0.0).reason) == {Reason.LATE}
    assert responder.num_taken == taken
    recovers(client)


def test_rows_that_nobody_could_read_are_answered_by_the_rule(
    responder: Responder, client: Client
) -> None:
    recovers(client)
    good = rows_about(1, 2)
    rows = DecisionRows(["s1", "\ud800"], good.turns, good.tools, good.facts)
    assert client.decide(rows).reason.tolist() == [Reason.REFUSED] * 2
    assert "surrogates not allowed" in client.counts.last_error
    recovers(client)


def test_namespaces_are_apart(valkey: EmbeddedValkey) -> None:
    with (
        Responder(valkey.url, namespace="b"),
        Client(valkey.url, engine_id="e", namespace="a", deadline_ms=100.0) as a,
        Client(valkey.url, engine_id="e", namespace="b", deadline_ms=PATIENT_MS) as b,
    ):
        assert a.decide(rows_about(1)).reason[0] >= Reason.LATE
        assert b.decide(rows_about(1)).reason[0] == Reason.POLICY


def test_what_a_caller_gets_wrong_is_said(valkey: EmbeddedValkey, client: Client) -> None:
    for url, engine_id, why in (
        ("http://x", "e", "is not redis://"),
        (valkey.url, "", "engine_id is empty"),
        (valkey.url, "e" * 300, "engine_id has 300 characters"),
    ):
        with pytest.raises(InputError, match=why):
            Client(url, engine_id=engine_id)
    with pytest.raises(InputError, match="deadline_ms must be 0 or more"):
        client.decide(rows_about(1), deadline_ms=-1.0)
    with pytest.raises(InputError, match="is no Outcome"):
        client.report(["paused"])  # type: ignore[list-item]


def test_many_questions_in_a_row_are_answered(responder: Responder, client: Client) -> None:
    # More than there are waits begun at once, and than replies are left unread.
    rows = rows_about(3, 2)
    for _ in range(300):
        verdicts = client.decide(rows)
        check_rows_match(rows, verdicts)
    assert client.counts.answered == 600 and client.counts.local == 0


def test_what_was_asked_does_not_wait_for_the_collector(
    responder: Responder, client: Client
) -> None:
    gc.disable()
    try:
        for num in (1, 1500):
            rows = rows_about(1, num)
            facts = weakref.ref(rows.facts)
            client.decide(rows)
            del rows
            assert facts() is None
    finally:
        gc.enable()
