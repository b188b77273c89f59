from __future__ import annotations

import itertools
from typing import Any

import pytest

from rlkv_service.adapters.vllm.keeper import MAX_PAUSE_S
from tests.service.adapters.vllm.fake_engine import BLOCK, FakeEngine


def prompt(seed: int, num_blocks: float) -> list[int]:
    return [(seed * 7919 + i * 104729) % 9973 for i in range(int(num_blocks * BLOCK))]


def strangers(engine: FakeEngine, num: int = 8, num_blocks: int = 8) -> None:
    """Fill the memory, and leave what they computed to whoever comes."""
    for i in range(num):
        engine.ask(prompt(1000 + i, num_blocks), hint={"verb": "preserve", "lease_s": 0.0})


def next_turn(engine: FakeEngine, last: Any, session: str | None = "a") -> Any:
    return engine.ask([*last.tokens, *prompt(77, 1.5)], session=session)


def test_without_a_hold_nothing_is_left() -> None:
    engine = FakeEngine(policy="preserve")
    first = engine.ask(prompt(1, 6.5), 3, session="a", hint={"verb": "preserve", "lease_s": 0.0})
    strangers(engine)
    assert next_turn(engine, first).found_tokens == (0, 0)


@pytest.mark.parametrize(("verb", "place"), [("preserve", 0), ("swap", 1)])
@pytest.mark.parametrize("odd", [-1, 0, 1])
def test_every_full_block_is_found_again(verb: str, place: int, odd: int) -> None:
    engine = FakeEngine(num_host_blocks=64, policy="discard")
    length = 6 * BLOCK + odd
    first = engine.ask(prompt(1, 9)[: length - 3], 3, session="a", hint={"verb": verb})
    assert first.num_tokens == length
    strangers(engine)
    # The token sampled last has no KV yet, though its block is full.
    full = (length - 1) // BLOCK * BLOCK
    found = next_turn(engine, first).found_tokens
    assert found[place] == full and sum(found) == full
    engine.check()


def test_a_session_without_a_name_is_known_by_its_prompt() -> None:
    engine = FakeEngine(policy="preserve")
    first = engine.ask(prompt(1, 6.5), 3)
    strangers(engine)
    # The answer has come back in other tokens.
    again = engine.ask([*first.tokens[:-2], 1, 2, 3, *prompt(5, 2)])
    assert again.found_tokens[0] >= 6 * BLOCK
    assert engine.keeper.counts()["returned"] == 1


def test_another_prompt_is_another_session() -> None:
    engine = FakeEngine(policy="preserve")
    shared = prompt(1, 4)
    engine.ask([*shared, 1, 2], 2)
    engine.ask([*shared, 1, 3, 4], 2)
    assert "returned" not in engine.keeper.counts()
    assert engine.keeper.state.book.num_paused == 2


def test_a_lease_ends() -> None:
    engine = FakeEngine(policy="discard")
    hint = {"verb": "preserve", "lease_s": 5.0}
    engine.ask(prompt(1, 6), session="a", hint=hint)
    assert engine.keeper.gauges()["preserved_blocks"] == 6
    engine.now_s += 6.0
    engine.ask([1, 2], session="b", hint={"ends": True})
    assert engine.keeper.gauges()["preserved_blocks"] == 0
    assert engine.keeper.counts()["expired"] == 1
    assert engine.pool.num_free == engine.pool.num_blocks


def test_nobody_waits_for_what_is_preserved() -> None:
    engine = FakeEngine(num_blocks=32, policy="preserve")
    for i in range(3):
        engine.ask(prompt(i, 9.5), session=f"s{i}")
    assert engine.keeper.gauges()["preserved_blocks"] == 27
    before = engine.num_steps
    big = engine.ask(prompt(9, 29), session="big", hint={"ends": True})
    alone = FakeEngine(num_blocks=32)
    alone.ask(prompt(9, 29), session="big", hint={"ends": True})
    assert engine.num_steps - before == alone.num_steps
    assert big.num_output_tokens == 1
    counts = engine.keeper.counts()
    assert counts["released_blocks"] == 25, "no more than is missing"


def test_who_grows_takes_before_anybody_is_preempted() -> None:
    engine = FakeEngine(num_blocks=32, policy="preserve")
    for i in range(3):
        engine.ask(prompt(i, 8.5), session=f"s{i}")
    running = [engine.add(prompt(10 + i, 3), 16, hint={"ends": True}) for i in range(2)]
    engine.run()
    assert all(request.num_output_tokens == 16 for request in running)
    assert engine.num_preempted == 0
    assert engine.keeper.counts()["released:GROW"] >= 1


def test_what_cannot_help_is_not_taken() -> None:
    engine = FakeEngine(num_blocks=32, policy="preserve")
    engine.ask(prompt(1, 6.5), session="a")
    engine.add(prompt(2, 20), 8, hint={"ends": True})
    engine.step()
    waiting = engine.add(prompt(3, 28), hint={"ends": True})
    engine.step()
    assert waiting in engine.waiting
    assert engine.keeper.gauges()["preserved_blocks"] == 6
    assert engine.keeper.counts()["no_room:NEW"] == 1
    engine.run()


def test_a_share_of_the_pool_at_most() -> None:
    engine = FakeEngine(num_blocks=32, policy="preserve", max_preserved_share=0.5)
    for i in range(4):
        engine.ask(prompt(i, 6.5), session=f"s{i}")
    assert engine.keeper.gauges()["preserved_blocks"] == 12
    engine.ask(prompt(9, 20.5), session="large")
    assert engine.keeper.gauges()["preserved_blocks"] == 16


def test_discarded_blocks_go_first_and_shared_ones_stay() -> None:
    engine = FakeEngine(num_blocks=32, policy="discard")
    system = prompt(1, 4)
    kept = {"verb": "preserve", "lease_s": 0.0}
    engine.ask([*system, *prompt(2, 2.5)], session="a", hint=kept)
    engine.ask([*system, *prompt(3, 2.5)], session="b")  # discarded
    found = engine.ask([*system, *prompt(4, 2.5)], session="c", hint=kept).found_tokens
    assert found == (4 * BLOCK, 0), "the shared prefix is another session's, too"
    assert engine.ask([*system, *prompt(3, 3)], session="d", hint=kept).found_tokens == found
    # Of a discarded session nothing of its own is found, though nobody needed the memory.
    engine.ask(prompt(5, 3.5), session="e")
    assert engine.ask(prompt(5, 4), session="f").found_tokens == (0, 0)
    engine.check()


@pytest.mark.parametrize("verb", ["preserve", "swap", "discard"])
def test_an_aborted_return_leaves_nothing(verb: str) -> None:
    engine = FakeEngine(num_blocks=32, num_host_blocks=32, policy="discard")
    first = engine.ask(prompt(1, 6.5), 3, session="a", hint={"verb": verb})
    again = engine.add([*first.tokens, 1, 2, 3], 5, session="a")
    engine.abort(again)  # before it had any memory
    assert engine.pool.num_free == 32
    again = engine.add([*first.tokens, 1, 2, 3], 5, session="a")
    engine.step()
    engine.abort(again)
    assert engine.pool.num_free == 32
    assert engine.keeper.gauges() | {"host_free_blocks": 0} == dict.fromkeys(
        engine.keeper.gauges(), 0
    )
    engine.check()


def test_swap_without_room_preserves() -> None:
    engine = FakeEngine(num_blocks=32, num_host_blocks=4, policy="swap")
    engine.ask(prompt(1, 6.5), session="a")
    assert engine.keeper.gauges()["preserved_blocks"] == 6
    assert engine.keeper.counts()["swaps_without_room"] == 1


def test_the_host_gives_up_who_is_expected_back_last() -> None:
    engine = FakeEngine(num_blocks=64, num_host_blocks=12, policy="swap")
    engine.ask(prompt(1, 6.5), session="old", hint={"tool": "human"})
    engine.now_s += 1.0
    quick = engine.ask(prompt(2, 6.5), session="quick", hint={"tool": "quick"})
    engine.now_s += 0.1
    engine.ask([*quick.tokens, 5], session="quick", hint={"tool": "quick"})
    engine.ask(prompt(3, 4.5), session="new", hint={"tool": "quick"})
    index = engine.keeper.state.tier.index
    assert index.num_of("quick") == 7 and index.num_of("new") == 4
    assert index.num_of("old") == 1, "from the end of its context on"
    engine.check()


def test_a_load_that_fails_is_a_miss() -> None:
    engine = FakeEngine(num_blocks=32, num_host_blocks=32, policy="swap")
    first = engine.ask(prompt(1, 6.5), 3, session="a")
    strangers(engine)
    engine.failing = 1
    next_turn(engine, first)
    assert engine.keeper.counts()["failed_loads"] == 1
    engine.check()


def test_a_reset_finds_nothing_held() -> None:
    engine = FakeEngine(num_blocks=32, num_host_blocks=32, policy="preserve")
    first = engine.ask(prompt(1, 6.5), 3, session="a")
    engine.ask(prompt(2, 6.5), session="b", hint={"verb": "swap"})
    engine.keeper.before_reset()
    assert engine.pool.num_free == 32
    engine.pool.drop_hashes(range(32))
    engine.keeper.after_reset()
    assert next_turn(engine, first).found_tokens == (0, 0)
    engine.check()


def test_bad_hints_are_counted_and_ignored() -> None:
    engine = FakeEngine(policy="preserve")
    for hint in ({"verb": "keep"}, {"turn": -1}, {"lease_s": "long"}, {"what": 1}, {"tool": 3}):
        engine.ask(prompt(1, 2.5), hint=hint)
    engine.ask(prompt(1, 2.5), session="x" * 300)
    assert engine.keeper.counts()["bad_hints"] == 6


def test_who_never_comes_back_is_forgotten() -> None:
    engine = FakeEngine(num_host_blocks=32, policy="swap")
    engine.ask(prompt(1, 6.5), session="a")
    engine.now_s += MAX_PAUSE_S + 1.0
    engine.ask([1], hint={"ends": True})
    assert engine.keeper.counts()["forgotten"] == 1
    gauges = engine.keeper.gauges()
    assert gauges["paused_sessions"] == gauges["host_blocks"] == 0
    engine.check()


def test_several_requests_of_one_session() -> None:
    engine = FakeEngine(num_blocks=64, policy="preserve")
    first = engine.ask(prompt(1, 4.5), session="a")
    both = [engine.add([*first.tokens, i], 2 + i, session="a") for i in range(2)]
    engine.run()
    assert all(request.found_tokens == (4 * BLOCK, 0) for request in both)
    assert engine.keeper.gauges()["paused_sessions"] == 1
    assert engine.keeper.counts()["returned"] == 1
    engine.check()


def test_who_never_comes_back_leaves_a_full_host_to_others() -> None:
    engine = FakeEngine(num_host_blocks=20, policy="rule")
    for i in range(5):
        engine.ask(prompt(100 + i, 6), session=f"gone-{i}", hint={"tool": "search"})
        engine.now_s += 3.0
    last = engine.ask(prompt(1, 6.5), session="a", hint={"tool": "search"})
    counts = engine.keeper.counts()
    assert counts["decisions:SWAP:RULE"] == 6 and counts["host_evicted_blocks"] >= 16
    strangers(engine)
    assert next_turn(engine, last).found_tokens == (0, 6 * BLOCK)
    engine.check()


def test_nobody_leaves_the_host_for_somebody_expected_later() -> None:
    engine = FakeEngine(num_host_blocks=8, policy="rule")
    means = engine.keeper.state.means
    means.observe("quick", 1.0)
    means.observe("slow", 100.0)
    quick = engine.ask(prompt(1, 6), session="quick", hint={"tool": "quick"})
    engine.ask(prompt(2, 6), session="slow", hint={"tool": "slow"})
    counts = engine.keeper.counts()
    assert counts["decisions:SWAP:RULE"] == counts["decisions:PRESERVE:RULE"] == 1
    strangers(engine)
    assert next_turn(engine, quick, "quick").found_tokens == (0, 6 * BLOCK)
    engine.check()


def test_a_session_that_runs_leaves_the_host_to_one_that_pauses() -> None:
    engine = FakeEngine(num_host_blocks=8, policy="rule")
    first = engine.ask(prompt(1, 6), session="a")
    running = engine.add([*first.tokens, *prompt(3, 1)], 5, session="a")
    engine.step()
    engine.ask(prompt(2, 6), session="b")
    assert not engine.running and running.num_output_tokens == 5
    assert engine.keeper.counts()["decisions:SWAP:RULE"] >= 2
    engine.check()


def test_nobody_leaves_the_host_for_himself_while_time_passes() -> None:
    engine = FakeEngine(num_host_blocks=8, policy="preserve")
    first = engine.ask(prompt(1, 6), session="a", hint={"tool": "search", "verb": "swap"})
    hint = {"tool": "search", "verb": "preserve", "lease_s": 100.0}
    engine.ask([*first.tokens, *prompt(3, 5)], session="a", hint=hint)
    state = engine.keeper.state
    session = state.book.find("a")
    assert session is not None and session.pause is not None
    ticks = itertools.count()
    state.clock = lambda: engine.now_s + 5.0 + next(ticks)
    # Six of its eleven blocks are there, and two places are free.
    assert not engine.keeper._actions.store_dirty(session)
    assert state.tier.index.num_ready(session.pause.hashes) == 6
    engine.check()
