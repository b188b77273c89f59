"""The server's clock jumps, by which requests carry their deadlines; or that of the wall does."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from tests.rlkv.faults.engine_loop import PATIENT_MS, EngineLoop, until, until_answered, until_local
from tests.rlkv.faults.system import System
from tests.service.client.bad_wire import clock_moved

Jump = Callable[[int], None]


@pytest.fixture
def jump(system: System) -> Iterator[Jump]:
    def move(seconds: int) -> None:
        for wire in (system.engine_wire, system.sidecar_wire):
            wire.spoiler = clock_moved(seconds)

    yield move
    for wire in (system.engine_wire, system.sidecar_wire):
        wire.spoiler = None


def test_the_servers_goes_ahead_by_an_hour_and_back(
    system: System, jump: Jump, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not because it is time to ask for the time anyway.
    monkeypatch.setattr("rlkv_service.client.exchange.CLOCK_S", 1e9)
    with EngineLoop(system.engine_wire.url, "jump", system.bundles) as engine:
        until_answered([engine], 100)
        jump(3600)
        # To a sidecar every request is an hour late, until the client hears of the new time with
        # its next probe: how many those are depends on the speed of the machine.
        until_local([engine], 10)
        until_answered([engine], 200, "the client hears of the new time")
        jump(0)
        until_answered([engine], 200, "requests with an hour of time")
        # What waits has an hour in the queue by its deadline, and to us no more than ever.
        system.sidecar.suspend()
        until_local([engine], 100)
        before = engine.counts
        system.sidecar.resume()
        until_answered([engine], 200, "recovery")
        until([engine], lambda: engine.counts.discarded_answers > before.discarded_answers, "late")
        engine.finish()
    reported = system.reported_by("jump")
    assert len(reported) == len(set(reported)) == engine.num_reported


def test_that_of_the_wall_is_not_looked_at(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, jump_s = time.time, itertools.cycle((0.0, 3600.0, -3600.0, 1e6, -1e6))
    with EngineLoop(system.engine_wire.url, "wall", system.bundles, PATIENT_MS) as engine:
        until_answered([engine], 100)
        monkeypatch.setattr(time, "time", lambda: now_s() + next(jump_s))
        until_answered([engine], 500)
        assert engine.counts.local == engine.counts.discarded_answers == 0
        engine.finish()
