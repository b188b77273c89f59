from __future__ import annotations

from types import ModuleType

import numba

from rlkv_engine.estimates import MIN_CALLS
from rlkv_service.deciding import compiled_rows, network
from rlkv_service.pauses import laws
from rlkv_service.schema import Outcome, Verdicts
from rlkv_service.sidecar import compiled_counts, compiled_facts
from rlkv_service.sidecar.sidecar import Sidecar
from tests.service.sidecar.queue_client import QueueClient, until

MODULES = (compiled_rows, network, laws, compiled_counts, compiled_facts)


def compiled(module: ModuleType) -> dict[str, int]:
    return {
        name: len(each.signatures)
        for name, each in vars(module).items()
        if isinstance(each, numba.core.dispatcher.Dispatcher)
    }


def test_nothing_is_compiled_while_somebody_waits(sidecar: Sidecar, client: QueueClient) -> None:
    before = [compiled(module) for module in MODULES]
    assert before[-1] == {"_gather": 1} and before[0]["judge"] >= 1 and before[2]["fill_law"] >= 1
    assert isinstance(client.ask(1), Verdicts)
    sidecar.service.record(
        [Outcome(1, "engine", "2", turn, "tool", 1.0 + turn, 100) for turn in range(MIN_CALLS)]
    )
    until(lambda: sidecar.service.counters.counts().outcomes["outcome"] == MIN_CALLS, "learnt")
    assert isinstance(client.ask(2), Verdicts)
    assert [compiled(module) for module in MODULES] == before
