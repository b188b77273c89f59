from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm.engine import NUM_BLOCKS, TestEngine, strangers, tokens

MODULE = "rlkv_service.adapters.vllm.scheduler"
POOL = NUM_BLOCKS - 1


@pytest.fixture(scope="module", params=["RlkvScheduler", "RlkvAsyncScheduler"])
def scheduling(request: pytest.FixtureRequest, model_folder: Path) -> Iterator[TestEngine]:
    engine = TestEngine(
        model_folder,
        scheduler_cls=f"{MODULE}.{request.param}",
        additional_config={"rlkv": {"policy": "discard"}},
    )
    assert engine.scheduler.why_off == ""
    yield engine
    engine.close()


@pytest.fixture
def engine(scheduling: TestEngine) -> Iterator[TestEngine]:
    with scheduling.lent() as lent:
        yield lent


def test_a_preserved_session_is_found_and_right(engine: TestEngine) -> None:
    first = tokens(1, 960)
    answer, _ = engine.ask(first, 8, session="a", hint={"verb": "preserve", "lease_s": 600})
    strangers(engine)
    second = first + answer + tokens(2, 40)
    again, cached = engine.ask(second, 16, session="a", hint={"ends": True})
    assert cached == 960
    engine.forget_everything()
    assert engine.ask(second, 16, hint={"ends": True}) == (again, 0)


def test_a_discarded_one_is_not(engine: TestEngine) -> None:
    first = tokens(1, 960)
    answer, _ = engine.ask(first, 8, session="a", hint={"verb": "discard"})
    assert engine.ask(first + answer, 1, session="a", hint={"ends": True})[1] == 0


def test_nobody_waits_for_what_is_preserved(engine: TestEngine) -> None:
    large = tokens(9, 1900)

    def steps() -> int:
        request_id, count = engine.add(large, 40, session="large", hint={"ends": True}), 0
        while request_id not in engine.outputs:
            engine.step()
            count += 1
            assert count < 200
        return count

    alone = steps()
    engine.forget_everything()
    for i in range(8):
        engine.ask(tokens(50 + i, 357), 1, session=f"p{i}", hint={"verb": "preserve"})
    assert engine.num_free == POOL - 88
    assert steps() == alone


def test_aborts_leave_nothing(engine: TestEngine) -> None:
    first = tokens(1, 640)
    answer, _ = engine.ask(first, 8, session="a", hint={"verb": "preserve"})
    for steps in (0, 3):
        again = engine.add(first + answer + tokens(2, 40), 50, session="a")
        for _ in range(steps):
            engine.step()
        engine.engine.abort_request([again], internal=False)
        engine.run()
        assert engine.num_free == POOL


def test_a_host_tier_needs_the_connector(model_folder: Path) -> None:
    engine = TestEngine(
        model_folder,
        scheduler_cls=f"{MODULE}.RlkvScheduler",
        additional_config={"rlkv": {"policy": "rule", "host_gib": 1}},
    )
    assert "host_gib needs RlkvConnector" in engine.scheduler.why_off
    assert engine.ask(tokens(1, 100), 2)[0]
    engine.close()
