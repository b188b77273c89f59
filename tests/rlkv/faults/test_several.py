"""Several engines on one sidecar, and several sidecars on one queue, of which one is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from rlkv.bench.sidecar_process import SidecarProcess
from tests.rlkv.faults.engine_loop import EngineLoop, until, until_answered
from tests.rlkv.faults.system import KEYS, System

#: Nothing but a lost request takes so long.
PATIENT_MS = 1000.0


@pytest.fixture
def others(system: System) -> Iterator[list[SidecarProcess]]:
    with ThreadPoolExecutor() as pool:
        started = list(pool.map(lambda _: system.new_sidecar(), range(2)))
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
            engine.finish()
            assert engine.counts.local == engine.counts.discarded_answers == 0
    for engine in engines:
        reported = system.reported_by(engine.engine_id)
        assert len(reported) == len(set(reported)) == engine.num_reported


def test_one_of_three_sidecars_is_killed_and_nobody_notices(
    system: System, others: list[SidecarProcess]
) -> None:
    with EngineLoop(system.engine_wire.url, "three", system.bundles, PATIENT_MS) as engine:

        def all_take_part() -> bool:
            said = map(json.loads, system.execute("HVALS", KEYS.sidecars))
            return bool(sum(each["requests"] > 0 for each in said) >= 3)

        until([engine], all_take_part, "all three answer")
        assert engine.counts.local == 0
        # One dies while it is asked: what it has taken is lost, and that is at most one pop.
        under_way = engine.asker.num_unanswered
        others[0].kill()
        until_answered([engine], 300)
        # One that stands still takes what it was about to take, and nothing after that.
        others[1].suspend()
        until_answered([engine], 300)
        under_way += engine.asker.num_unanswered
        others[1].kill()
        until_answered([engine], 300)
        until(
            [engine],
            lambda: engine.counts.answered + engine.counts.local >= engine.asker.num_rows,
            "all requests have ended",
        )
        assert engine.asker.num_unanswered <= under_way <= 8
        engine.finish()
