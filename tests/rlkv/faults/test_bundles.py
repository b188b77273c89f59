"""Bundles that are replaced, by good ones and by others, while the engine asks."""

from __future__ import annotations

import pytest

from rlkv_engine.errors import RlkvError
from tests.rlkv.faults.engine_loop import PATIENT_MS, EngineLoop, until, until_answered, until_local
from tests.rlkv.faults.system import System
from tests.service.deciding.damaged_bundles import of_another_version, truncated, with_nan


def test_a_bundle_that_cannot_be_used_and_another_one(system: System) -> None:
    bundles, first = system.bundles, system.sidecar.policy
    with EngineLoop(system.engine_wire.url, "bundles", bundles, PATIENT_MS) as engine:
        until_answered([engine], 100)
        # Replaced by nonsense, the old one goes on and nobody notices.
        with_nan(bundles.folder)
        until([engine], lambda: "bundle refused" in system.sidecar.complaints, "it is refused")
        until_answered([engine], 100)
        assert engine.counts.local == 0
        # No sidecar starts with nonsense; the rule answers meanwhile.
        system.sidecar.kill()
        until_local([engine], 100)
        for damage, named in ((truncated, "SHA-256"), (of_another_version, "format_version 99")):
            bundles.put(0)
            damage(bundles.folder)
            with pytest.raises(RlkvError, match=named):
                system.restart_sidecar()
        # Another one at the next start, and one while it runs.
        second = bundles.put(1)
        system.restart_sidecar()
        until_answered([engine], 200, "recovery")
        before = engine.counts.local
        third = bundles.put(2)
        until([engine], lambda: engine.asker.versions[-1] == third, "the third one answers")
        until_answered([engine], 100)
        assert engine.counts.local == before
        assert engine.asker.versions == [first, second, third]
        engine.finish()
    reported = system.reported_by("bundles")
    assert len(reported) == len(set(reported)) == engine.num_reported
