"""Nobody waits for what is preserved: counted in steps, beside an engine that holds nothing."""

from __future__ import annotations

import pytest

from tests.vllm.engine import BLOCK, NUM_BLOCKS, TestEngine, tokens

POOL = NUM_BLOCKS - 1


def steps_of(engine: TestEngine, prompt: list[int], max_tokens: int) -> int:
    request_id = engine.add(prompt, max_tokens, session="large", hint={"ends": True})
    steps = 0
    while request_id not in engine.outputs:
        engine.step()
        steps += 1
        assert steps < 200, "it waits for leases"
    return steps


def fill(engine: TestEngine) -> None:
    """Eight sessions with leases of an hour have 88 of 99 blocks."""
    for i in range(8):
        prompt = tokens(300 + i, 11 * BLOCK + 5)
        engine.ask(prompt, 1, session=f"p{i}", hint={"verb": "preserve", "lease_s": 3600})
    assert engine.keeper.gauges()["preserved_blocks"] == 88


def test_a_large_request_is_admitted_at_once(engine: TestEngine) -> None:
    large = tokens(9, 60 * BLOCK)
    alone = steps_of(engine, large, 8)
    engine.forget_everything()
    fill(engine)
    assert steps_of(engine, large, 8) == alone
    # No more was taken than what it needed beyond what was free.
    assert engine.keeper.gauges()["preserved_blocks"] == POOL - 61


def test_who_decodes_takes_before_anybody_is_preempted(engine: TestEngine) -> None:
    prompts = [tokens(60 + i, 40) for i in range(4)]

    def steps_of_all() -> int:
        ids = [engine.add(prompt, 200, hint={"ends": True}) for prompt in prompts]
        steps = 0
        while not all(request_id in engine.outputs for request_id in ids):
            engine.step()
            assert not any(r.num_preemptions for r in engine.scheduler.requests.values())
            steps += 1
            assert steps < 1000
        return steps

    alone = steps_of_all()
    engine.forget_everything()
    fill(engine)
    taken = engine.counts.get("released:GROW", 0)
    assert steps_of_all() == alone
    assert engine.counts["released:GROW"] > taken


def test_blocks_taken_by_a_verdict_of_swap_are_on_the_host(
    engine: TestEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copied before the step that overwrites them."""
    from rlkv_service.adapters.vllm.room import Room
    from rlkv_service.schema import Verb

    first = tokens(1, 30 * BLOCK)
    answer, _ = engine.ask(first, 8, session="agent", hint={"verb": "preserve", "lease_s": 3600})
    monkeypatch.setattr(
        Room, "_verbs", lambda self, victims, need: {s.name: Verb.SWAP for s in victims}
    )
    loaded = engine.counts.get("reused_host_tokens", 0)
    steps_of(engine, tokens(9, 90 * BLOCK), 4)
    second = first + answer + tokens(2, 40)
    again, cached = engine.ask(second, 16, session="agent", hint={"ends": True})
    assert cached == 30 * BLOCK
    assert engine.counts["reused_host_tokens"] > loaded
    engine.forget_everything()
    assert again == engine.ask(second, 16, hint={"ends": True})[0]


def test_a_lease_that_ends_is_let_go(engine: TestEngine) -> None:
    engine.ask(tokens(1, 640), 1, session="agent", hint={"verb": "preserve", "lease_s": 0.0})
    engine.ask(tokens(2, 40), 2, hint={"ends": True})
    assert engine.keeper.gauges()["preserved_blocks"] == 0
    assert engine.num_free == POOL


def test_a_reset_finds_nothing_held(engine: TestEngine) -> None:
    engine.ask(tokens(1, 640), 1, session="agent", hint={"verb": "preserve", "lease_s": 3600})
    engine.ask(tokens(2, 640), 1, session="other", hint={"verb": "swap"})
    assert engine.num_free < POOL
    assert engine.scheduler.reset_prefix_cache(reset_running_requests=True)
    assert engine.num_free == POOL and engine.keeper.gauges()["host_blocks"] == 0


def test_pausing_the_engine_is_possible(engine: TestEngine) -> None:
    engine.ask(tokens(1, 640), 1, session="agent", hint={"verb": "preserve", "lease_s": 3600})
    engine.core.pause_scheduler(mode="abort", clear_cache=True)
    engine.core.resume_scheduler()
    assert engine.num_free == POOL
