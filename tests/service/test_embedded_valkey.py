from __future__ import annotations

from pathlib import Path

import pytest

from rlkv_engine.errors import InputError, RlkvError
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_errors import RedisError, RedisReplyError, RedisTimeout
from rlkv_service.resp import RespConnection


def test_what_was_acknowledged_survives_a_crash(short_folder: Path) -> None:
    server = EmbeddedValkey(short_folder)
    with RespConnection(server.url) as connection:
        assert connection.execute("XADD", "log", "*", "m", b"\x00\r\n\xff")
        server.kill()
        with pytest.raises(RedisError):
            connection.execute("PING")
    again = EmbeddedValkey(short_folder)
    try:
        with RespConnection(again.url) as connection:
            ((_, fields),) = connection.execute("XRANGE", "log", "-", "+")
        assert fields == [b"m", b"\x00\r\n\xff"]
    finally:
        again.stop()
    assert not again.is_running


def test_the_folder_says_who_reaches_the_socket(short_folder: Path) -> None:
    folder = short_folder / "new"
    server = EmbeddedValkey(folder)
    try:
        # Every new folder is its owner's; one that others may enter lets the group in.
        assert folder.stat().st_mode & 0o777 == 0o700
        assert Path(server.url.path).stat().st_mode & 0o777 == 0o770
    finally:
        server.stop()


def test_a_pipeline_says_which_command_was_refused(valkey: EmbeddedValkey) -> None:
    with RespConnection(valkey.url) as connection:
        replies = connection.pipeline([("SET", "a", 1), ("LPOP", "a"), ("GET", "a")])
    assert replies[0] == b"OK" and replies[2] == b"1"
    assert isinstance(replies[1], RedisReplyError)


def test_a_connection_that_missed_its_deadline_is_closed(valkey: EmbeddedValkey) -> None:
    connection = RespConnection(valkey.url, timeout_s=0.01)
    with pytest.raises(RedisTimeout):
        connection.execute("BLPOP", "nothing", 0)
    assert connection.is_closed
    with pytest.raises(RedisError, match="closed"):
        connection.execute("PING")


def test_a_password_is_asked_for(short_folder: Path) -> None:
    server = EmbeddedValkey(short_folder, {"requirepass": "secret"})
    try:
        with RespConnection(server.url) as connection:
            assert connection.execute("PING") == b"PONG"
        assert "secret" not in str(server.url)
    finally:
        server.stop()


def test_a_server_that_cannot_start_says_why(short_folder: Path) -> None:
    with pytest.raises(RlkvError, match="no-such-option"):
        EmbeddedValkey(short_folder, {"no-such-option": "1"})


def test_a_path_too_long_for_a_socket_is_refused(short_folder: Path) -> None:
    with pytest.raises(InputError, match="shorter folder"):
        EmbeddedValkey(short_folder / ("x" * 100))
