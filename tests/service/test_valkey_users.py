"""The users that deploy/valkey/users.acl makes, on a real server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.outcome_log import record_outcomes
from rlkv_service.redis_errors import RedisReplyError
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.resp import RespConnection
from rlkv_service.schema import SCHEMA_VERSION, SessionEnd
from rlkv_service.server_clock import ServerClock

ACL_FILE = Path(__file__).parents[2] / "deploy" / "valkey" / "users.acl"
KEYS = RedisKeys("blue")
PASSWORD = "secret"


@pytest.fixture
def users(valkey: EmbeddedValkey) -> EmbeddedValkey:
    lines = ACL_FILE.read_text(encoding="utf-8").replace("@NAMESPACE@", KEYS.namespace)
    with RespConnection(valkey.url) as admin:
        for line in reversed(lines.splitlines()):  # `default`, whom we are, goes last
            _, name, *rules = line.split()
            rules = [f">{PASSWORD}" if rule.endswith("_SHA256@") else rule for rule in rules]
            admin.execute("ACL", "SETUSER", name, *rules)
    return valkey


def connected(server: EmbeddedValkey, user: str) -> RespConnection:
    return RespConnection(replace(server.url, username=user, password=PASSWORD))


ALLOWED = {
    "engine": [
        ["RPUSH", KEYS.requests, "request"],
        ["LTRIM", KEYS.requests, "-10", "-1"],
        ["BLMPOP", "0.001", "1", KEYS.answers("c"), "LEFT", "COUNT", "8"],
    ],
    "sidecar": [
        ["BLMPOP", "0.001", "1", KEYS.requests, "LEFT", "COUNT", "8"],
        ["RPUSH", KEYS.answers("c"), "answer"],
        ["EXPIRE", KEYS.answers("c"), "30"],
        ["XADD", KEYS.decisions, "MAXLEN", "~", "10", "*", "q", "request"],
        ["XREAD", "COUNT", "1", "BLOCK", "1", "STREAMS", KEYS.outcomes, "0"],
        ["XTRIM", KEYS.decisions, "MAXLEN", "~", "10"],
        ["MEMORY", "USAGE", KEYS.decisions],
        ["SET", KEYS.pauses, "state"],
        ["GET", KEYS.pauses],
        ["HSET", KEYS.sidecars, "a", "{}"],
        ["HDEL", KEYS.sidecars, "a"],
        ["LLEN", KEYS.requests],
    ],
    "reader": [
        ["XRANGE", KEYS.decisions, "-", "+"],
        ["XREVRANGE", KEYS.outcomes, "+", "-", "COUNT", "1"],
        ["HGETALL", KEYS.sidecars],
    ],
    "health": [["PING"]],
}

FORBIDDEN = {
    "engine": [
        ["BLMPOP", "0.001", "1", KEYS.requests, "LEFT"],
        ["RPUSH", KEYS.answers("c"), "a verdict of its own"],
        ["XRANGE", KEYS.decisions, "-", "+"],
        ["RPUSH", RedisKeys("green").requests, "request"],
        ["SET", KEYS.pauses, "state"],
        ["FLUSHALL"],
        ["KEYS", "*"],
        ["CONFIG", "GET", "*"],
    ],
    "sidecar": [
        ["GET", RedisKeys("green").pauses],
        ["FLUSHALL"],
        ["KEYS", "*"],
        ["CONFIG", "GET", "*"],
        ["ACL", "LIST"],
        ["SHUTDOWN"],
    ],
    "reader": [["XADD", KEYS.decisions, "*", "q", "request"], ["DEL", KEYS.decisions]],
    "health": [["GET", KEYS.pauses], ["INFO"]],
}


def test_each_may_do_its_work_and_no_more(users: EmbeddedValkey) -> None:
    for user, commands in ALLOWED.items():
        with connected(users, user) as connection:
            for words in commands:
                connection.execute(*words)
    for user, commands in FORBIDDEN.items():
        with connected(users, user) as connection:
            for words in commands:
                with pytest.raises(RedisReplyError, match="NOPERM"):
                    connection.execute(*words)


@pytest.mark.parametrize("user", ["engine", "sidecar"])
def test_outcomes_and_the_clock(users: EmbeddedValkey, user: str) -> None:
    end = SessionEnd(v=SCHEMA_VERSION, engine_id="e", session=user)
    with connected(users, user) as connection:
        assert record_outcomes(connection, KEYS, [end]) == [True]
        ServerClock().set(connection)


def test_nobody_enters_without_a_password(users: EmbeddedValkey) -> None:
    with (
        RespConnection(users.url) as connection,
        pytest.raises(RedisReplyError, match="NOAUTH"),
    ):
        connection.execute("GET", KEYS.pauses)
