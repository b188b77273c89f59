from __future__ import annotations

import time

import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_errors import RedisError, RedisReplyError, RedisTimeout
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.resp_parser import encode_command
from rlkv_service.server_clock import ServerClock


def test_what_is_waited_for_in_vain_may_come_later(valkey: EmbeddedValkey) -> None:
    with RespConnection(valkey.url) as connection, RespConnection(valkey.url) as other:
        connection.send(encode_command("BLPOP", "later", 0))
        assert connection.wait(time.monotonic() + 0.01) == []
        assert connection.wait(0.0) == []
        other.execute("RPUSH", "later", "now")
        assert connection.wait(time.monotonic() + 10.0) == [[b"later", b"now"]]
        assert connection.execute("PING") == b"PONG"


def test_large_texts_arrive_whole(valkey: EmbeddedValkey) -> None:
    text = bytes(range(256)) * 8192
    with RespConnection(valkey.url) as connection:
        connection.execute("SET", "a", text)
        assert connection.execute("GET", "a") == text


def test_what_does_not_go_at_once_goes_in_parts(valkey: EmbeddedValkey) -> None:
    raw = memoryview(encode_command("SET", "a", bytes(4 * 2**20)))
    with RespConnection(valkey.url) as connection:
        sent, calls = 0, 0
        while sent < len(raw):
            sent += connection.send_some(raw[sent:])
            calls += 1
        assert calls > 1
        assert connection.receive(time.monotonic() + 10.0) == b"OK"


def test_nothing_is_sent_after_the_deadline(valkey: EmbeddedValkey) -> None:
    connection = RespConnection(valkey.url)
    with pytest.raises(RedisTimeout, match="before anything was sent"):
        connection.execute("PING", deadline_s=time.monotonic() - 1.0)
    assert connection.is_closed


def test_a_server_that_goes_is_missed(valkey: EmbeddedValkey) -> None:
    connection = RespConnection(valkey.url)
    valkey.kill()
    with pytest.raises(RedisError, match=r"closed the connection|is gone"):
        connection.wait(time.monotonic() + 10.0)
    assert connection.is_closed


def test_a_wrong_password_and_no_server_are_said(valkey: EmbeddedValkey) -> None:
    with pytest.raises(RedisReplyError, match=r"WRONGPASS|without any password"):
        RespConnection(RedisURL(path=valkey.url.path, password="wrong"))
    with pytest.raises(RedisError, match="cannot be reached"):
        RespConnection(RedisURL(path=valkey.url.path + "-not"))


def test_databases_are_apart(valkey: EmbeddedValkey) -> None:
    with RespConnection(valkey.url) as first:
        first.execute("SET", "a", 1)
        with RespConnection(RedisURL(path=valkey.url.path, db=3)) as third:
            assert third.execute("GET", "a") is None


def test_the_server_tells_the_time(valkey: EmbeddedValkey) -> None:
    clock = ServerClock()
    assert not clock.is_set
    with RespConnection(valkey.url) as connection:
        clock.set(connection)
    assert clock.is_set
    # Its own clock is the one of this host.
    assert abs(clock.now_s() - time.time()) < 1.0
    assert clock.at(5.0) - clock.at(2.0) == pytest.approx(3.0)


@pytest.mark.parametrize("reply", [None, b"OK", [b"1"], [b"a", b"b"], 7])
def test_what_is_no_time_is_refused(reply: object) -> None:
    clock = ServerClock()
    with pytest.raises(RedisError, match="time is"):
        clock.learn(reply, 0.0, 1.0)
    assert not clock.is_set
