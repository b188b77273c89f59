"""Bundles that are replaced, by good ones and by others, while the engine asks."""

from __future__ import annotations

import pytest

from rlkv_engine.errors import RlkvError
from tests.rlkv.faults.engine_loop import PATIENT_MS, EngineLoop, until, until_answered, until_local
from tests.rlkv.faults.system import System
from tests.service.deciding.damaged_bundles import of_another_version, truncated, with_nan


def test_a_bundle_is_replaced_by_nonsense_and_by_another_one(system: System) -> None:
    bundles = system.bundles
    first = bundles.put(0)
    with EngineLoop(system.engine_wire.url, "replaced", bundles, PATIENT_MS) as engine:
        until([engine], lambda: engine.asker.versions[-1:] == [first], "answers")
        engine.asker.versions.clear()
        with_nan(bundles.folder)
        until([engine], lambda: "bundle refused" in system.sidecar.complaints, "it is refused")
        until_answered([engine], 100)
        second = bundles.put(1)
        until([engine], lambda: engine.asker.versions[-1] == second, "the other one answers")
        until_answered([engine], 100)
        assert engine.asker.versions == [first, second]
        assert engine.counts.local == 0
        engine.finish()


def test_no_sidecar_starts_with_nonsense_and_one_with_another_bundle_does(system: System) -> None:
    bundles = system.bundles
    with EngineLoop(system.engine_wire.url, "bundles", bundles) as engine:
        until_answered([engine], 100)
        first = engine.asker.versions.pop()
        system.sidecar.kill()
        until_local([engine], 100)
        for damage, named in ((truncated, "SHA-256"), (of_another_version, "format_version 99")):
            bundles.put(0)
            damage(bundles.folder)
            with pytest.raises(RlkvError, match=named):
                system.restart_sidecar()
        second = bundles.put(2)
        system.restart_sidecar()
        until_answered([engine], 200, "recovery")
        assert engine.asker.versions in ([second], [first, second])
        engine.finish()
    reported = system.reported_by("bundles")
    assert len(reported) == len(set(reported)) == engine.num_reported
