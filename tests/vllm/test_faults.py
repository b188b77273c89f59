"""Whatever breaks: serving goes on, answers are right, and block counts return to their start."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlkv_service.adapters.vllm import connector as connector_module
from rlkv_service.adapters.vllm.host_copies import HostCopies
from rlkv_service.adapters.vllm.keeper import Keeper
from rlkv_service.embedded_valkey import EmbeddedValkey
from tests.service.client import answering
from tests.service.client.answering import Responder
from tests.service.client.asking import wait_until
from tests.vllm.engine import NUM_BLOCKS, TestEngine, strangers, tokens

POOL = NUM_BLOCKS - 1


@pytest.fixture
def fresh(model_folder: Path) -> Iterator[TestEngine]:
    """An engine of which nothing is expected afterwards."""
    engine = TestEngine(model_folder, {"policy": "swap", "host_gib": 0.05})
    yield engine
    engine.close()


def uncached(engine: TestEngine, prompt: list[int]) -> list[int]:
    engine.forget_everything()
    answer, cached = engine.ask(prompt, 16)
    assert cached == 0
    return answer


def test_a_failure_of_the_scheduler_part(
    fresh: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the step that loads: what was promised is computed, everything held is let go."""
    first = tokens(1, 640)
    answer, _ = fresh.ask(first, 8, session="a")
    fresh.ask(tokens(2, 640), 1, session="b", hint={"verb": "preserve"})
    strangers(fresh)
    assert fresh.num_free < POOL

    def fails(self: Keeper, num_scheduled: object) -> None:
        raise RuntimeError("of this test")

    monkeypatch.setattr(Keeper, "step", fails)
    second = first + answer + tokens(3, 40)
    again, _ = fresh.ask(second, 16, session="a")
    assert "of this test" in fresh.connector.why_off
    assert fresh.num_free == POOL
    assert again == uncached(fresh, second)
    fresh.check_pool()


def test_a_failure_of_the_worker_part(fresh: TestEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokens(1, 640)
    answer, _ = fresh.ask(first, 8, session="a")
    strangers(fresh)

    def fails(self: HostCopies, orders: object) -> None:
        raise RuntimeError("of this test")

    monkeypatch.setattr(HostCopies, "load", fails)
    second = first + answer + tokens(3, 40)
    again, _ = fresh.ask(second, 16, session="a")
    assert "of this test" in fresh.worker_connector.why_off
    assert fresh.counts["failed_loads"] == 1
    # A worker that is out answers every order with no.
    fresh.ask(tokens(5, 640), 8, session="c")
    assert fresh.keeper.gauges()["pending_blocks"] == 0
    assert fresh.num_free == POOL - fresh.keeper.gauges()["preserved_blocks"]
    assert again == uncached(fresh, second)
    fresh.check_pool()


def test_without_host_memory(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise MemoryError("of this test")

    monkeypatch.setattr(connector_module, "HostCopies", fails)
    engine = TestEngine(model_folder, {"policy": "swap", "host_gib": 0.05})
    assert "of this test" in engine.worker_connector.why_off
    first = tokens(1, 640)
    answer, _ = engine.ask(first, 8, session="a")
    engine.ask(first + answer + tokens(2, 40), 8, session="a")
    assert engine.counts["failed_stores"] == 2
    assert engine.num_free == POOL
    engine.check_pool()
    engine.close()


@pytest.mark.parametrize("verb", ["preserve", "swap", "discard"])
def test_aborts(engine: TestEngine, verb: str) -> None:
    """Of a turn that waits, that computes its prompt, and that decodes."""
    for steps in (0, 1, 5):
        name = f"{verb}-{steps}"
        first = tokens(1, 640)
        answer, _ = engine.ask(first, 8, session=name, hint={"verb": verb, "lease_s": 3600})
        again = engine.add(first + answer + tokens(2, 40), 50, session=name)
        for _ in range(steps):
            engine.step()
        engine.engine.abort_request([again], internal=False)
        engine.run()
        assert engine.num_free == POOL
        assert engine.keeper.gauges()["paused_sessions"] == 0


def test_a_sidecar_that_answers_is_silent_and_dies(model_folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        valkey = EmbeddedValkey(Path(folder))
        responder = Responder(valkey.url)
        config = {
            "policy": "sidecar",
            "redis": f"unix://{valkey.url.path}" if valkey.url.path else str(valkey.url),
            "host_gib": 0.05,
            "deadline_ms": 20_000,
        }
        engine = TestEngine(model_folder, config)
        try:
            _answers_and_late_ones(engine, responder)
            responder.script = answering.never
            _serves(engine, "silent", 31)
            responder.stop()
            valkey.stop()
            _serves(engine, "dead", 32)
            wait_until(lambda: engine.counts.get("fallback", 0) > 0, "a fallback that is counted")
            counts = engine.counts
            assert any(counts.get(f"asked:{why}") for why in ("DISCONNECTED", "BREAKER_OPEN"))
            engine.forget_everything()
            assert engine.num_free == POOL
            engine.check_pool()
        finally:
            engine.close()
            valkey.stop()


def _answers_and_late_ones(engine: TestEngine, responder: Responder) -> None:
    first = tokens(1, 640)
    answer, _ = engine.ask(first, 8, session="s7")
    wait_until(lambda: _applied(engine), "an answer")
    # About a session that has ended meanwhile.
    responder.may_answer = threading.Semaphore(0)
    engine.ask(tokens(2, 640), 8, session="s8")
    engine.ask(tokens(2, 640), 8, session="s8", hint={"ends": True})
    responder.may_answer.release(1000)
    wait_until(lambda: _steps(engine) and engine.counts.get("stale_answers", 0) > 0, "late answers")
    second = first + answer + tokens(4, 40)
    assert engine.ask(second, 16, session="s7", hint={"ends": True})[1] == 640
    wait_until(lambda: _steps(engine) and engine.counts["outcomes_written"] >= 2, "outcomes")


def _steps(engine: TestEngine) -> bool:
    engine.ask([5, 6, 7], 1, hint={"ends": True})
    return True


def _applied(engine: TestEngine) -> bool:
    _steps(engine)
    return any(name.endswith(":POLICY") for name in engine.counts)


def _serves(engine: TestEngine, name: str, seed: int) -> None:
    first = tokens(seed, 640)
    answer, _ = engine.ask(first, 8, session=name)
    second = first + answer + tokens(5, 40)
    assert engine.ask(second, 8, session=name, hint={"ends": True})[1] == 640
