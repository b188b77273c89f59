"""Several engines on one sidecar, and several sidecars on one queue, of which one is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from rlkv.sidecar_process import SidecarProcess
from tests.rlkv.faults.engine_loop import PATIENT_MS, EngineLoop, until, until_answered
from tests.rlkv.faults.system import KEYS, System


@pytest.fixture
def others(system: System) -> Iterator[list[SidecarProcess]]:
    url = system.valkey.url  # who dies is gone for the server at once
    with ThreadPoolExecutor() as pool:
        started = list(pool.map(lambda _: system.new_sidecar(url=url), range(2)))
    yield started
    for each in started:
        each.kill()
        each.stop()


def test_two_engines_with_one_sidecar(system: System) -> None:
    with ExitStack() as stack:
        engines = [
            stack.enter_context(
                EngineLoop(system.engine_wire.url, name, system.bundles, PATIENT_MS)
            )
            for name in ("left", "right")
        ]
        until_answered(engines, 600)
        for engine in engines:
            assert engine.counts.local == engine.counts.discarded_answers == 0
            engine.finish()
    for engine in engines:
        reported = system.reported_by(engine.engine_id)
        assert len(reported) == len(set(reported)) == engine.num_reported


def test_one_of_three_sidecars_is_killed_and_nobody_notices(
    system: System, others: list[SidecarProcess]
) -> None:
    with EngineLoop(system.engine_wire.url, "three", system.bundles, PATIENT_MS) as engine:

        def all_take_part() -> bool:
            said = [json.loads(raw) for raw in system.execute("HVALS", KEYS.sidecars)]
            return len([each for each in said if each["requests"] > 0]) >= 3

        until([engine], all_take_part, "all three answer")
        assert engine.counts.local == 0
        # One dies while it is asked, another stands still before it does: what they had taken is
        # lost, and nothing that is asked later.
        others[0].kill()
        until_all_answered(engine)
        others[1].suspend()
        until_answered([engine], 300)
        others[1].kill()
        until_all_answered(engine)
        assert engine.counts.local == 0  # those that are lost have their deadline before them
        engine.finish()


def until_all_answered(engine: EngineLoop) -> None:
    first = engine.asker.num_requests
    until_answered([engine], 300)
    end = engine.asker.num_requests
    until([engine], lambda: engine.asker.all_answered(first, end), "all later ones are answered")
