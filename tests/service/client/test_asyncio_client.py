from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rlkv_service.client import AsyncioClient, BreakerSettings, DecisionRows, Reason
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from tests.service.client import answering
from tests.service.client.answering import Responder
from tests.service.client.asking import check_rows_match, outcome, rows_about

PATIENT_MS = 20_000.0
QUICK = BreakerSettings(first_probe_s=0.01, max_probe_s=0.1, seed=0)


def with_client(
    url: RedisURL, body: Callable[[AsyncioClient], Awaitable[None]], **options: Any
) -> None:
    async def main() -> None:
        async with AsyncioClient(
            url, engine_id="engine", deadline_ms=PATIENT_MS, breaker=QUICK, **options
        ) as client:
            await body(client)

    asyncio.run(main())


async def answered(client: AsyncioClient, first: int, num: int = 3) -> bool:
    rows = rows_about(first, num)
    verdicts = await client.decide(rows)
    check_rows_match(rows, verdicts)
    return bool((verdicts.reason < Reason.LATE).all())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20.0):
        while not await condition():
            await asyncio.sleep(0.002)


def test_many_tasks_ask_at_once(valkey: EmbeddedValkey, responder: Responder) -> None:
    async def body(client: AsyncioClient) -> None:
        tasks = [answered(client, 10 * i, 1 + i % 20) for i in range(50)]
        assert all(await asyncio.gather(*tasks))
        assert await answered(client, 5, 2500)
        assert client.counts.local == 0

    with_client(valkey.url, body)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (answering.unreadable, Reason.MALFORMED),
        (answering.refusal, Reason.REFUSED),
        (answering.garbage, Reason.MALFORMED),
        (answering.other_id, Reason.MISMATCHED),
        (answering.never, Reason.LATE),
    ],
    ids=lambda value: value.__name__ if callable(value) else value.name,
)
def test_an_answer_that_is_none_is_replaced_and_counted(
    valkey: EmbeddedValkey, responder: Responder, script: answering.Script, reason: Reason
) -> None:
    async def body(client: AsyncioClient) -> None:
        assert await answered(client, 1)
        responder.script = script
        verdicts = await client.decide(rows_about(3, 4), deadline_ms=200.0)
        assert set(verdicts.reason) == {reason}
        assert client.counts.by_reason[reason] == 4
        responder.script = answering.answer
        await until(lambda: answered(client, 9))

    with_client(valkey.url, body)


def test_a_late_answer_is_not_the_next_ones(valkey: EmbeddedValkey, responder: Responder) -> None:
    async def body(client: AsyncioClient) -> None:
        assert await answered(client, 1)
        responder.may_answer = threading.Semaphore(0)
        verdicts = await client.decide(rows_about(100, 2), deadline_ms=50.0)
        assert set(verdicts.reason) == {Reason.LATE}
        responder.may_answer.release(1000)
        assert await answered(client, 200) and await answered(client, 300)

    with_client(valkey.url, body)


def test_too_many_at_once_are_answered_by_the_rule(
    valkey: EmbeddedValkey, responder: Responder
) -> None:
    async def body(client: AsyncioClient) -> None:
        assert await answered(client, 1)
        responder.may_answer = threading.Semaphore(0)
        first = asyncio.create_task(answered(client, 2))
        await asyncio.sleep(0)
        assert set((await client.decide(rows_about(3))).reason) == {Reason.NOT_ASKED}
        responder.may_answer.release(1000)
        assert await first

    with_client(valkey.url, body, max_under_way=1)


def test_without_a_server_the_rule_answers_until_there_is_one(short_folder: Path) -> None:
    async def body(client: AsyncioClient) -> None:
        verdicts = await client.decide(rows_about(1))
        assert verdicts.reason[0] in (Reason.DISCONNECTED, Reason.BREAKER_OPEN)
        assert not await client.report([outcome("early")], deadline_ms=1.0)
        server = await asyncio.to_thread(EmbeddedValkey, short_folder)
        try:
            with Responder(server.url):
                await until(lambda: answered(client, 1))

                async def written() -> bool:
                    return client.counts.outcomes_written == 1

                await until(written)
        finally:
            server.stop()

    with_client(RedisURL(path=str(short_folder / "valkey.sock")), body)


def test_outcomes_are_written_once(valkey: EmbeddedValkey) -> None:
    async def body(client: AsyncioClient) -> None:
        outcomes = [outcome(f"s{i}") for i in range(300)]
        assert await client.report(outcomes) and await client.report(outcomes[:1])
        await client.report([outcome("last")], deadline_ms=0.0)

    with_client(valkey.url, body)
    with RespConnection(valkey.url) as connection:
        assert connection.execute("XLEN", RedisKeys().outcomes) == 301


def test_rows_that_nobody_could_read_are_answered_by_the_rule(
    valkey: EmbeddedValkey, responder: Responder
) -> None:
    async def body(client: AsyncioClient) -> None:
        assert await answered(client, 1)
        good = rows_about(1, 2)
        rows = DecisionRows(["s1", "\ud800"], good.turns, good.tools, good.facts)
        assert (await client.decide(rows)).reason.tolist() == [Reason.REFUSED] * 2
        assert await answered(client, 1)

    with_client(valkey.url, body)


def test_who_waits_when_it_closes_is_answered_by_the_rule(valkey: EmbeddedValkey) -> None:
    waiting: list[asyncio.Task[bool]] = []

    async def main() -> None:
        async with AsyncioClient(
            valkey.url, engine_id="engine", deadline_ms=PATIENT_MS, breaker=QUICK
        ) as client:
            await client.decide(rows_about(1), deadline_ms=100.0)
            waiting.append(asyncio.create_task(answered(client, 5)))
            await asyncio.sleep(0)
        assert not await waiting[0]
        assert (await client.decide(rows_about(1))).reason[0] == Reason.DISCONNECTED

    asyncio.run(main())
