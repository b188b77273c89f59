from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from rlkv_engine.errors import InputError
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.own_valkey import OwnValkey
from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from tests.service.sidecar.queue_client import until


def pid_of(url: RedisURL) -> int:
    with RespConnection(url) as connection:
        info = connection.execute("INFO", "server").decode()
    return int(info.split("process_id:")[1].split()[0])


def answers(url: RedisURL) -> bool:
    try:
        return pid_of(url) > 0
    except RedisError:
        return False


def value_of(url: RedisURL) -> bytes | None:
    with RespConnection(url) as connection:
        try:
            value: bytes | None = connection.execute("GET", "a")
            return value
        except RedisReplyError:  # it is still loading
            return None


def test_one_that_dies_is_started_again(short_folder: Path) -> None:
    stop = threading.Event()
    with OwnValkey(short_folder) as own:
        thread = threading.Thread(target=own.keep_running, args=(own.url, stop))
        thread.start()
        with RespConnection(own.url) as connection:
            connection.execute("SET", "a", "kept")
        first = pid_of(own.url)
        os.kill(first, signal.SIGKILL)
        until(lambda: answers(own.url) and pid_of(own.url) != first, "it stays dead")
        until(lambda: value_of(own.url) is not None, "it does not load what it had")
        assert value_of(own.url) == b"kept"
        stop.set()
        thread.join()
    assert not answers(own.url)


def test_one_that_outlived_its_sidecar_is_taken_over(short_folder: Path) -> None:
    orphan = EmbeddedValkey(short_folder)
    with OwnValkey(short_folder) as own:
        assert pid_of(own.url) == orphan.pid
    assert not answers(own.url)
    orphan.stop()


def test_two_that_start_at_once_share_one(short_folder: Path) -> None:
    found: list[OwnValkey] = []
    threads = [
        threading.Thread(target=lambda: found.append(OwnValkey(short_folder))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({pid_of(own.url) for own in found}) == 1
    for own in found:
        own.stop()


def test_folders_that_cannot_be(short_folder: Path) -> None:
    (short_folder / "file").write_text("")
    with pytest.raises(InputError, match="file: no folder for a server: File exists"):
        OwnValkey(short_folder / "file")
    with pytest.raises(InputError, match="choose a shorter folder"):
        OwnValkey(short_folder / ("x" * 120))
