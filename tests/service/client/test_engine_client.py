from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlkv_engine.errors import InputError
from rlkv_service.client import BreakerSettings, DecisionRows, EngineClient, Reason, SessionEnd
from rlkv_service.client.engine_client import DEFAULT_MAX_UNDER_WAY
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from tests.service.client import answering
from tests.service.client.answering import Responder
from tests.service.client.asking import check_rows_match, outcome, rows_about, wait_until

PATIENT_MS = 20_000.0
QUICK = BreakerSettings(first_probe_s=0.01, max_probe_s=0.1, seed=0)


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[EngineClient]:
    with EngineClient(
        valkey.url, engine_id="engine", deadline_ms=PATIENT_MS, breaker=QUICK
    ) as client:
        yield client


def collect(client: EngineClient, asked: dict[Any, DecisionRows]) -> None:
    """Until everything that was asked is answered, each by what is its own."""

    def step() -> bool:
        for tag, verdicts in client.collect():
            check_rows_match(asked.pop(tag), verdicts)
        return not asked

    wait_until(step, f"answers, {client.counts}")


def test_verdicts_come_back_with_their_tags(responder: Responder, client: EngineClient) -> None:
    asked = {}
    for i in range(DEFAULT_MAX_UNDER_WAY):
        asked[("step", i)] = rows_about(10 * i, 1 + i % 10)
        assert client.ask(asked[("step", i)], ("step", i))
    num_rows = sum(map(len, asked.values()))
    collect(client, asked)
    assert client.counts.answered == num_rows and client.counts.local == 0
    assert client.collect() == []


def test_large_requests_go_through(responder: Responder, client: EngineClient) -> None:
    asked = {i: rows_about(1000 * i, 1024) for i in range(20)}
    for i, rows in asked.items():
        assert client.ask(rows, i)
    collect(client, asked)


def test_more_than_so_many_are_not_asked(valkey: EmbeddedValkey, responder: Responder) -> None:
    responder.may_answer = threading.Semaphore(0)
    with EngineClient(
        valkey.url, engine_id="engine", deadline_ms=PATIENT_MS, max_under_way=3
    ) as client:
        asked = {i: rows_about(i, 2) for i in range(3)}
        assert all(client.ask(rows, i) for i, rows in asked.items())
        assert not client.ask(rows_about(50, 2), 50)
        assert client.counts.by_reason[Reason.NOT_ASKED] == 2
        responder.may_answer.release(1000)
        collect(client, asked)
        assert client.ask(rows_about(60), 60)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (answering.unreadable, Reason.MALFORMED),
        (answering.too_few_rows, Reason.MALFORMED),
        (answering.refusal, Reason.REFUSED),
        (answering.garbage, Reason.MALFORMED),
        (answering.other_id, Reason.MISMATCHED),
        (answering.never, Reason.LATE),
    ],
    ids=lambda value: value.__name__ if callable(value) else value.name,
)
def test_an_answer_that_is_none_is_counted_and_not_delivered(
    responder: Responder, client: EngineClient, script: answering.Script, reason: Reason
) -> None:
    asked = {0: rows_about(1, 2)}
    client.ask(asked[0], 0)
    collect(client, asked)
    responder.script = script
    client.ask(rows_about(1, 4), "lost", 200.0)
    wait_until(lambda: client.counts.by_reason[reason] == 4, "the count")
    assert client.collect() == []
    responder.script = answering.answer
    asked = {1: rows_about(9, 2)}
    client.ask(asked[1], 1)
    collect(client, asked)


def test_a_late_answer_is_dropped(responder: Responder, client: EngineClient) -> None:
    responder.may_answer = threading.Semaphore(0)
    client.ask(rows_about(5, 3), "late", 50.0)
    wait_until(lambda: client.counts.by_reason[Reason.LATE] == 3, "the deadline")
    responder.may_answer.release(1000)
    asked = {"next": rows_about(9, 2)}
    client.ask(asked["next"], "next")
    collect(client, asked)
    wait_until(lambda: client.counts.discarded_answers <= 1, "the late answer")


def test_without_a_server_nothing_is_asked_and_outcomes_wait(short_folder: Path) -> None:
    url = RedisURL(path=str(short_folder / "valkey.sock"))
    with EngineClient(
        url, engine_id="engine", deadline_ms=PATIENT_MS, breaker=QUICK, max_outcomes_waiting=3
    ) as client:
        wait_until(lambda: not client.ask(rows_about(1), 1), "the breaker")
        client.report([outcome(f"s{i}") for i in range(5)])
        client.end([SessionEnd(1, "engine", "s4")])
        counts = client.counts
        assert (counts.outcomes_waiting, counts.outcomes_dropped) == (3, 3)
        server = EmbeddedValkey(short_folder)
        try:
            # Outcomes need no sidecar.
            wait_until(lambda: client.counts.outcomes_written == 3, "the outcomes")
            with Responder(server.url), RespConnection(server.url) as connection:
                assert connection.execute("XLEN", RedisKeys().outcomes) == 3
                wait_until(lambda: client.ask(rows_about(1), 2), "the breaker")
                wait_until(lambda: len(client.collect()) > 0, "an answer")
        finally:
            server.stop()


def test_closing_writes_what_waits(valkey: EmbeddedValkey) -> None:
    client = EngineClient(valkey.url, engine_id="engine")
    client.report([outcome(f"s{i}") for i in range(1000)])
    client.close()
    client.close()
    with RespConnection(valkey.url) as connection:
        assert connection.execute("XLEN", RedisKeys().outcomes) == 1000
    assert not client.ask(rows_about(1), 1)


def test_rows_that_nobody_could_read_harm_no_others(
    responder: Responder, client: EngineClient
) -> None:
    good = rows_about(1, 2)
    asked = {"good": good}
    client.ask(DecisionRows(["s1", "\ud800"], good.turns, good.tools, good.facts), "bad")
    client.ask(good, "good")
    collect(client, asked)
    assert client.counts.by_reason[Reason.REFUSED] == 2


def test_rows_that_cannot_be_asked_about_are_said(client: EngineClient) -> None:
    with pytest.raises(InputError, match="no rows"):
        client.ask(rows_about(1, 0), 1)
    with pytest.raises(InputError, match="1025 rows at once"):
        client.ask(rows_about(1, 1025), 1)


def test_requests_that_died_with_one_of_several_sidecars_do_not_stop_the_asking(
    responder: Responder, client: EngineClient
) -> None:
    # What a sidecar had taken when it was killed is not answered; what comes later, others answer.
    lost = {i: rows_about(i) for i in range(1, 9)}
    responder.script = lambda request: (
        None if answering.number_of(request.sessions[0]) in lost else answering.answer(request)
    )
    for i, rows in lost.items():
        assert client.ask(rows, i, deadline_ms=300.0)
    later = {100: rows_about(100)}
    client.ask(later[100], 100)
    collect(client, later)
    wait_until(lambda: client.counts.local == len(lost), "they have ended")
    assert client.ask(rows_about(200), 200)
    assert client.counts.by_reason[Reason.BREAKER_OPEN] == 0
    # But with no answer since, they count.
    for i, rows in lost.items():
        client.ask(rows, i, deadline_ms=20.0)
    wait_until(lambda: client.counts.by_reason[Reason.LATE] == 2 * len(lost), "they have ended")
    assert not client.ask(rows_about(300), 300)
