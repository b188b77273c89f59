"""The sidecar's side of faults: a server that talks nonsense, clocks that jump."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rlkv_service.client import Client, Outcome, Reason
from rlkv_service.embedded_valkey import EmbeddedValkey
from rlkv_service.redis_errors import RedisError
from rlkv_service.sidecar.sidecar import Sidecar, SidecarOptions
from tests.service.client.bad_wire import BadWire
from tests.service.client.nonsense import RandomReplies
from tests.service.sidecar.queue_client import QueueClient, rows_of_session, until


def outcome(turn: int) -> Outcome:
    return Outcome(1, "engine", "s", turn, "tool", 1.5, 100)


@pytest.mark.parametrize("seed", range(2))
def test_no_reply_of_the_server_ends_a_sidecar(
    seed: int, valkey: EmbeddedValkey, client: QueueClient, bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # More rounds, and no waiting, so that all of it meets nonsense often.
    monkeypatch.setattr("rlkv_service.sidecar.housekeeping.EVERY_S", 0.005)
    monkeypatch.setattr("rlkv_service.sidecar.queue_loop.MAX_RETRY_S", 0.01)
    monkeypatch.setattr("rlkv_service.pauses.follower._RETRY_S", 0.005)
    with BadWire(valkey.url) as wire, Sidecar(wire.url, SidecarOptions(bundle)) as sidecar:
        service = sidecar.service
        assert service.record([outcome(0)]) == [True]
        assert client.ask(1).id == 1
        wire.spoiler = replies = RandomReplies(seed, 0.15)

        def go_on() -> bool:
            client.push(client.frame(2))
            service.decide("engine", rows_of_session("s"))
            with suppress(RedisError):
                service.record([outcome(turn) for turn in range(3)])
            time.sleep(0.002)  # the others have work to do
            assert sidecar.failure is None
            return replies.num_replaced > 250

        until(go_on, "nothing is replaced")
        wire.spoiler = None
        client.push(client.frame(3))
        until(lambda: client.next().id == 3, "no answer")
        assert sorted(service.record([outcome(turn) for turn in range(4)]))[-1] is True
        until(lambda: service.counters.counts().outcomes["outcome"] >= 4, "nothing is learnt")
    assert sidecar.failure is None


def test_jumps_of_the_clock_of_the_wall_change_nothing(
    valkey: EmbeddedValkey, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, jump_s = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now_s() + jump_s[0])
    rows = rows_of_session("s")
    with (
        Sidecar(valkey.url, SidecarOptions(bundle)) as sidecar,
        Client(valkey.url, engine_id="engine", deadline_ms=5000.0) as client,
    ):
        stop = threading.Event()

        chance = random.Random(0)

        def jump() -> None:
            while not stop.is_set():
                jump_s[0] = chance.choice((-1e6, -3600.0, 0.0, 3600.0, 1e6))
                stop.wait(0.001)

        jumping = threading.Thread(target=jump)
        jumping.start()
        try:
            for turn in range(200):
                assert (client.decide(rows).reason < Reason.LATE).all()
                assert client.report([outcome(turn)])
            counts = sidecar.service.counters.counts()
            assert counts.requests == {"answered": 200, "late": 0, "refused": 0, "malformed": 0}
            assert client.counts.local == client.counts.discarded_answers == 0
            until(
                lambda: sidecar.service.counters.counts().outcomes["outcome"] == 200,
                "nothing is learnt",
            )
        finally:
            stop.set()
            jumping.join()
