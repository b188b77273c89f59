from __future__ import annotations

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.outcome_log import record_outcomes, recorded
from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.resp import RespConnection
from rlkv_service.schema import Outcome, SessionEnd, decode

KEYS = RedisKeys("test")


def outcome(engine_id: str, session: str, turn: int) -> Outcome:
    return Outcome(1, engine_id, session, turn, "search", 1.5, 100)


def stream(connection: RespConnection) -> list[bytes]:
    return [fields[1] for _, fields in connection.execute("XRANGE", KEYS.outcomes, "-", "+")]


def test_outcomes_and_ends_are_written_once_each(valkey: EmbeddedValkey) -> None:
    messages: list[Outcome | SessionEnd] = [outcome("e", "s", 0), outcome("e", "s", 1)]
    messages.append(SessionEnd(1, "e", "s", 1))
    with RespConnection(valkey.url) as connection:
        assert record_outcomes(connection, KEYS, messages[:2]) == [True, True]
        assert record_outcomes(connection, KEYS, [*messages, messages[2]]) == [
            False, False, True, False,
        ]  # fmt: skip
        assert record_outcomes(connection, KEYS, []) == []
        written = stream(connection)
    assert [decode(raw, Outcome) for raw in written[:2]] == messages[:2]
    assert decode(written[2], SessionEnd) == messages[2]


def test_names_with_colons_are_told_apart(valkey: EmbeddedValkey) -> None:
    messages = [outcome("a", "b:1", 2), outcome("a:b", "1", 2), outcome("a:b:1", "x", 2)]
    with RespConnection(valkey.url) as connection:
        assert record_outcomes(connection, KEYS, messages) == [True] * 3


def test_a_server_without_room_has_all_or_nothing(valkey: EmbeddedValkey) -> None:
    messages = [outcome("e", f"s{i}", 0) for i in range(50)]
    with RespConnection(valkey.url) as connection:
        connection.execute("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(RedisReplyError, match="OOM"):
            record_outcomes(connection, KEYS, messages)
        connection.execute("CONFIG", "SET", "maxmemory", "0")
        assert connection.execute("EXISTS", KEYS.outcomes) == 0
        assert all(record_outcomes(connection, KEYS, messages))


def test_what_is_no_reply_to_outcomes_is_refused() -> None:
    for reply in (None, 3, [1], b"OK"):
        with pytest.raises(RedisError, match="2 outcomes were sent"):
            recorded(reply, 2)
