from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.outcome_log import record_outcomes
from rlkv_service.pauses import OnlinePauses, OutcomeFollower
from rlkv_service.pauses.state import encode_state
from rlkv_service.redis_errors import RedisReplyError
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.resp import RespConnection
from rlkv_service.schema import SCHEMA_VERSION, Outcome, SessionEnd, encode

KEYS = RedisKeys("follower")


@pytest.fixture
def connection(valkey: EmbeddedValkey) -> Iterator[RespConnection]:
    with RespConnection(valkey.url) as opened:
        yield opened


def outcomes(begin: int, end: int) -> list[Outcome | SessionEnd]:
    rng = np.random.default_rng(begin)
    messages: list[Outcome | SessionEnd] = [
        Outcome(
            SCHEMA_VERSION, "engine", f"session {i % 30}", i, f"tool {i % 4}",
            float(rng.lognormal(0.0, 1.5)), 100,
        )
        for i in range(begin, end)
    ]  # fmt: skip
    messages.append(SessionEnd(SCHEMA_VERSION, "engine", f"session {begin % 30}", begin))
    return messages


def follower(save_every_s: float = 1e9) -> OutcomeFollower:
    return OutcomeFollower(OnlinePauses(), KEYS, save_every_s=save_every_s)


def read_all(reading: OutcomeFollower, connection: RespConnection) -> None:
    place = ""
    while place != reading.last_id:  # a step without entries may find that the stream begins anew
        place = reading.last_id
        while reading.step(connection):
            pass


def fresh(connection: RespConnection) -> OutcomeFollower:
    """One that has seen all of the stream once, without any state."""
    reading = follower()
    read_all(reading, connection)
    return reading


def state_of(reading: OutcomeFollower) -> bytes:
    return encode_state(reading.pauses, reading.last_id)


def test_outcomes_and_ends_are_learnt_from(connection: RespConnection) -> None:
    told: list[object] = []
    reading = OutcomeFollower(OnlinePauses(), KEYS, on_message=told.append)
    reading.place(connection)
    assert reading.step(connection) == 0 and reading.last_id == "0-0"
    messages = outcomes(0, 700)
    record_outcomes(connection, KEYS, messages)
    record_outcomes(connection, KEYS, messages)  # said again it counts once
    read_all(reading, connection)
    assert (reading.num_outcomes, reading.num_ends) == (700, 1)
    assert told == messages
    pauses = [each.pause_s for each in messages if isinstance(each, Outcome)]
    assert reading.pauses.mean_pause_s("engine") == pytest.approx(np.mean(pauses), rel=1e-9)


def test_one_that_was_killed_after_a_save_goes_on_as_if_nothing_had_been(
    connection: RespConnection,
) -> None:
    killed = follower()
    record_outcomes(connection, KEYS, outcomes(0, 300))
    killed.place(connection)
    read_all(killed, connection)
    killed.save(connection)
    record_outcomes(connection, KEYS, outcomes(300, 450))
    read_all(killed, connection)  # learnt, and not saved: lost with it
    record_outcomes(connection, KEYS, outcomes(450, 500))
    again = follower()
    again.place(connection)
    assert again.last_id != killed.last_id
    read_all(again, connection)
    assert again.num_outcomes == 200
    assert state_of(again) == state_of(fresh(connection))


def test_sidecars_with_one_stream_reach_one_state(connection: RespConnection) -> None:
    first, second = follower(save_every_s=0.0), follower()
    first.place(connection)
    for begin in range(0, 900, 90):
        record_outcomes(connection, KEYS, outcomes(begin, begin + 90))
        first.step(connection)
        if begin == 450:
            second.place(connection)  # begins with what the first one saved
            assert second.last_id != "0-0"
    read_all(first, connection)
    read_all(second, connection)
    assert 0 < second.num_outcomes < first.num_outcomes == 900
    assert state_of(first) == state_of(second) == state_of(fresh(connection))


def test_a_server_that_lost_the_last_entries_is_followed_without_counting_twice(
    connection: RespConnection,
) -> None:
    reading = follower()
    reading.place(connection)
    record_outcomes(connection, KEYS, outcomes(0, 100))
    read_all(reading, connection)
    reading.save(connection)
    before = connection.execute("DUMP", KEYS.outcomes)
    record_outcomes(connection, KEYS, outcomes(100, 120))
    read_all(reading, connection)
    # As after a crash: the stream as it was, and the state that is kept beside it.
    connection.execute("RESTORE", KEYS.outcomes, 0, before, "REPLACE")
    read_all(reading, connection)
    assert state_of(reading) == state_of(fresh(connection))


@pytest.mark.parametrize("later", [True, False])
def test_a_server_that_begins_anew_is_followed_with_what_was_known(
    connection: RespConnection, later: bool
) -> None:
    reading = follower()
    reading.place(connection)
    record_outcomes(connection, KEYS, outcomes(0, 200))
    read_all(reading, connection)
    connection.execute("FLUSHALL")
    if later:
        record_outcomes(connection, KEYS, outcomes(500, 520))
    else:  # its clock is behind
        for i, message in enumerate(outcomes(500, 520)):
            connection.execute("XADD", KEYS.outcomes, f"7-{i}", "m", encode(message))
    read_all(reading, connection)
    assert reading.num_outcomes == 220
    assert reading.pauses.engines.keys.calls.max() == 220
    reading.save(connection)
    again = follower()
    again.place(connection)
    assert state_of(again) == state_of(reading)


def test_a_state_that_cannot_be_used_is_named_and_the_stream_read_from_its_beginning(
    connection: RespConnection,
) -> None:
    record_outcomes(connection, KEYS, outcomes(0, 50))
    connection.execute("SET", KEYS.pauses, b"\x81\xa1v\x63")
    reading = follower()
    reading.place(connection)
    read_all(reading, connection)
    assert "version 99" in reading.refused_state and reading.num_outcomes == 50


def test_entries_that_cannot_be_read_are_counted(connection: RespConnection) -> None:
    record_outcomes(connection, KEYS, outcomes(0, 5))
    impossible = Outcome(SCHEMA_VERSION, "e", "s", 0, "t", float("nan"), 1)
    newer = Outcome(SCHEMA_VERSION + 1, "e", "s", 1, "t", 1.0, 1)
    record_outcomes(connection, KEYS, [impossible, newer])
    connection.execute("XADD", KEYS.outcomes, "*", "m", b"\xc1 no message")
    no_text = encode(Outcome(SCHEMA_VERSION, "e", "sss", 2, "t", 1.0, 1)).replace(b"sss", b"\x80ss")
    connection.execute("XADD", KEYS.outcomes, "*", "m", no_text)
    connection.execute("XADD", KEYS.outcomes, "*", "other", "field")
    connection.execute("XADD", KEYS.outcomes, "18446744073709551615-1", "m", b"")
    reading = fresh(connection)
    assert (reading.num_outcomes, reading.num_unreadable) == (5, 6)


def test_a_server_without_room_is_counted_and_the_state_written_later(
    connection: RespConnection,
) -> None:
    record_outcomes(connection, KEYS, outcomes(0, 50))
    reading = fresh(connection)
    connection.execute("CONFIG", "SET", "maxmemory", 1)
    reading.save(connection)
    assert reading.num_failed_saves == 1
    connection.execute("CONFIG", "SET", "maxmemory", 0)
    reading.save(connection)
    assert connection.execute("EXISTS", KEYS.pauses) == 1


def test_a_key_of_another_kind_is_an_error_of_the_server(connection: RespConnection) -> None:
    connection.execute("SET", KEYS.outcomes, "no stream")
    with pytest.raises(RedisReplyError, match="WRONGTYPE"):
        follower().place(connection)


def wait_for(condition: str, reading: OutcomeFollower, least: object) -> None:
    deadline_s = time.monotonic() + 20.0
    while not getattr(reading, condition) or getattr(reading, condition) < least:
        assert time.monotonic() < deadline_s, f"{condition} is {getattr(reading, condition)}"
        time.sleep(0.005)


def test_a_thread_of_its_own_survives_the_server(short_folder: Path) -> None:
    server = EmbeddedValkey(short_folder)
    reading, stop = follower(save_every_s=0.0), threading.Event()
    thread = threading.Thread(target=reading.run, args=(server.url, stop))
    thread.start()
    try:
        with RespConnection(server.url) as connection:
            record_outcomes(connection, KEYS, outcomes(0, 40))
        wait_for("num_outcomes", reading, 40)
        server.kill()
        wait_for("trouble", reading, "")
        server = EmbeddedValkey(short_folder)
        with RespConnection(server.url) as connection:
            record_outcomes(connection, KEYS, outcomes(40, 60))
            wait_for("num_outcomes", reading, 60)
            assert reading.trouble == ""
            stop.set()
            thread.join()
            assert state_of(reading) == state_of(fresh(connection))
    finally:
        stop.set()
        thread.join()
        server.stop()
