from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv_service.client import AsyncioClient, BreakerSettings, Client, EngineClient, Reason
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from tests.service.client.answering import Responder
from tests.service.client.asking import check_rows_match, outcome, rows_about, wait_until
from tests.service.client.debian_redis import DebianRedis

PATIENT_MS = 20_000.0
QUICK = BreakerSettings(first_probe_s=0.01, max_probe_s=0.1, seed=0)
ROOT = Path(__file__).parents[3]
DOCS, USERS = ROOT / "docs" / "client.md", ROOT / "deploy" / "valkey" / "users.acl"


@pytest.fixture
def redis(short_folder: Path) -> Iterator[DebianRedis]:
    with DebianRedis(short_folder) as redis:
        yield redis


def check_answers(url: str | RedisURL) -> None:
    """All three forms are answered, and write outcomes."""
    rows = rows_about(5, 300)
    with Client(url, engine_id="a", deadline_ms=PATIENT_MS, breaker=QUICK) as client:
        verdicts = client.decide(rows)
        check_rows_match(rows, verdicts)
        assert set(verdicts.reason) == {Reason.POLICY}, client.counts
        assert client.report([outcome("a")])
    with EngineClient(url, engine_id="b", deadline_ms=PATIENT_MS, breaker=QUICK) as engine:
        assert engine.ask(rows, "tag")
        wait_until(lambda: engine.counts.answered > 0, "an answer")
        ((_, verdicts),) = engine.collect()
        check_rows_match(rows, verdicts)
        engine.report([outcome("b")])

    async def main() -> None:
        async with AsyncioClient(
            url, engine_id="c", deadline_ms=PATIENT_MS, breaker=QUICK
        ) as client:
            verdicts = await client.decide(rows)
            check_rows_match(rows, verdicts)
            assert set(verdicts.reason) == {Reason.POLICY}, client.counts
            assert await client.report([outcome("c")])

    asyncio.run(main())


def test_over_tls_with_certificates_on_both_sides(redis: DebianRedis) -> None:
    with Responder(RedisURL.parse(redis.tls_url())):
        check_answers(redis.tls_url())
    with RespConnection(redis.url) as connection:
        assert connection.execute("XLEN", RedisKeys().outcomes) == 3


def test_a_server_that_cannot_prove_who_it_is_is_not_talked_to(
    redis: DebianRedis, short_folder: Path
) -> None:
    for url, why in (
        (redis.tls_url(authority="client.pem"), "certificate verify failed"),
        (redis.tls_url(host="127.0.0.2"), "cannot be reached"),
        (redis.tls_url(authority="none.pem"), "No such file"),
    ):
        with pytest.raises(RedisError, match=why):
            RespConnection(RedisURL.parse(url))
        with Client(url, engine_id="e", deadline_ms=PATIENT_MS, breaker=QUICK) as client:
            assert client.decide(rows_about(1)).reason[0] >= Reason.LATE
            assert re.search(why, client.counts.last_error)


def documented_rights(name: str) -> list[str]:
    """The line of docs/client.md, which must be that of deploy/valkey/users.acl."""
    (line,) = re.findall(rf"^ACL SETUSER {name} .*$", DOCS.read_text(), re.MULTILINE)
    (deployed,) = re.findall(rf"^user {name} .*$", USERS.read_text(), re.MULTILINE)
    deployed = re.sub(r"#@\w+@", ">PASSWORD", deployed).replace("@NAMESPACE@", "default")
    assert line == f"ACL SETUSER {deployed.removeprefix('user ')}"
    # Split as a server does: what is in brackets is one word.
    return re.findall(r"\([^)]*\)|\S+", line.replace("PASSWORD", f"{name}-secret"))


def give_rights(url: RedisURL) -> None:
    with RespConnection(url) as connection:
        for name in ("engine", "sidecar"):
            connection.execute(*documented_rights(name))


def as_user(url: RedisURL, name: str) -> RedisURL:
    return RedisURL(path=url.path, username=name, password=f"{name}-secret")


def check_rights(url: RedisURL) -> None:
    give_rights(url)
    with Responder(as_user(url, "sidecar")):
        check_answers(as_user(url, "engine"))
    with RespConnection(as_user(url, "engine")) as engine:
        for words in (
            ("GET", RedisKeys().pauses),
            ("LPOP", RedisKeys().requests),
            ("DEL", RedisKeys().outcomes),
            ("XRANGE", RedisKeys().outcomes, "-", "+"),
            ("SET", "other", 1),
            ("RPUSH", RedisKeys("other").requests, 1),
            ("CONFIG", "GET", "*"),
            ("FLUSHALL",),
            ("EVAL", "return redis.call('GET', KEYS[1])", 1, RedisKeys().pauses),
        ):
            with pytest.raises(RedisReplyError, match=r"NOPERM|ACL failure|permission"):
                engine.execute(*words)


def test_an_engine_needs_no_more_rights_than_the_documented(valkey: EmbeddedValkey) -> None:
    check_rights(valkey.url)


def test_the_same_with_the_redis_of_debian(redis: DebianRedis) -> None:
    check_rights(redis.url)


def test_a_wrong_password_is_no_exception(valkey: EmbeddedValkey) -> None:
    give_rights(valkey.url)
    url = RedisURL(path=valkey.url.path, username="engine", password="wrong")
    with Client(url, engine_id="e", deadline_ms=PATIENT_MS, breaker=QUICK) as client:
        assert client.decide(rows_about(1)).reason[0] >= Reason.LATE
        assert "WRONGPASS" in client.counts.last_error
        assert "wrong" not in client.counts.last_error.replace("WRONGPASS", "")
