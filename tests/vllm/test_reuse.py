"""What a paused session finds again after strangers have filled the memory, and if it is right."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm.engine import BLOCK, NUM_BLOCKS, TestEngine, strangers, tokens

ANSWER = 8
#: Long enough for a wrong block to be seen.
SECOND_ANSWER = 24


def two_turns(
    engine: TestEngine, length: int, hint: dict[str, Any] | None
) -> tuple[list[int], list[int], int]:
    """A turn of so many tokens with its answer, strangers, and the next turn.

    Returns:
        Its prompt, its answer, and tokens of the prompt that were cached.
    """
    first = tokens(1, length - ANSWER)
    answer, _ = engine.ask(first, ANSWER, session="agent", hint=hint)
    assert len(first) + len(answer) == length
    strangers(engine)
    second = first + answer + tokens(2, 40)
    again, cached = engine.ask(second, SECOND_ANSWER, session="agent", hint={"ends": True})
    return second, again, cached


def uncached(engine: TestEngine, prompt: list[int], max_tokens: int = SECOND_ANSWER) -> list[int]:
    """The answer of an engine that has nothing of this prompt."""
    engine.forget_everything()
    answer, cached = engine.ask(prompt, max_tokens, hint={"ends": True})
    assert cached == 0
    return answer


@pytest.mark.parametrize("verb", ["preserve", "swap"])
@pytest.mark.parametrize("length", [30 * BLOCK - 1, 30 * BLOCK, 30 * BLOCK + 1])
def test_every_full_block_is_found_and_right(engine: TestEngine, verb: str, length: int) -> None:
    before = engine.counts
    second, again, cached = two_turns(engine, length, {"verb": verb})
    # The token sampled last has no KV when its turn ends, so a block that it fills is not kept.
    assert cached == (length - 1) // BLOCK * BLOCK
    assert again == uncached(engine, second)
    where = "reused_device_tokens" if verb == "preserve" else "reused_host_tokens"
    assert engine.counts[where] - before.get(where, 0) == cached


def test_a_discarded_session_finds_nothing(engine: TestEngine) -> None:
    first = tokens(1, 960)
    answer, _ = engine.ask(first, ANSWER, session="agent", hint={"verb": "discard"})
    _, cached = engine.ask(first + answer, 1, session="agent", hint={"ends": True})
    assert cached == 0  # though nobody has needed the memory


def test_a_corrupted_host_copy_is_seen(engine: TestEngine) -> None:
    first = tokens(1, 960)
    answer, _ = engine.ask(first, ANSWER, session="agent", hint={"verb": "swap"})
    strangers(engine)
    copies = engine.worker_connector.copies
    assert copies is not None
    for layer in copies.arena:
        layer ^= 0x55
    second = first + answer + tokens(2, 40)
    again, cached = engine.ask(second, SECOND_ANSWER, session="agent", hint={"ends": True})
    assert cached == 960
    assert again != uncached(engine, second), "the comparison of answers has no power"


def test_another_block_in_its_place_is_a_miss(engine: TestEngine) -> None:
    failed = engine.counts.get("failed_loads", 0)
    first = tokens(1, 960)
    answer, _ = engine.ask(first, ANSWER, session="agent", hint={"verb": "swap"})
    strangers(engine)
    copies = engine.worker_connector.copies
    assert copies is not None
    copies._keys[:] = [b"another block"] * len(copies._keys)
    second = first + answer + tokens(2, 40)
    again, _ = engine.ask(second, SECOND_ANSWER, session="agent", hint={"ends": True})
    assert again == uncached(engine, second)
    assert engine.counts["failed_loads"] == failed + 1
    assert engine.connector.why_off == "" and engine.worker_connector.why_off == ""


def test_a_shared_beginning_survives_a_discard(engine: TestEngine) -> None:
    system = tokens(7, 10 * BLOCK)
    ours = system + tokens(8, 100)
    answer, _ = engine.ask(ours, ANSWER, session="ours", hint={"verb": "preserve", "lease_s": 0})
    engine.ask(system + tokens(9, 100), 1, session="other", hint={"verb": "discard"})
    second = ours + answer + tokens(10, 40)
    again, cached = engine.ask(second, SECOND_ANSWER, session="ours", hint={"ends": True})
    assert cached == (len(ours) + ANSWER - 1) // BLOCK * BLOCK
    assert again == uncached(engine, second)


def test_a_session_is_known_by_its_blocks(engine: TestEngine) -> None:
    returned = engine.counts.get("returned", 0)
    first = tokens(1, 640)
    answer, _ = engine.ask(first, ANSWER, hint={"verb": "preserve"})
    strangers(engine)
    _, cached = engine.ask(first + answer + tokens(2, 40), 1, hint={"ends": True})
    assert cached == 640 and engine.counts["returned"] == returned + 1


@pytest.mark.parametrize("verb", ["preserve", "swap"])
def test_sessions_by_turns_while_others_decode(engine: TestEngine, verb: str) -> None:
    """Several agents at once: copies and leases between steps in which others compute."""
    said = {f"agent-{i}": tokens(20 + i, 200) for i in range(4)}
    answers: dict[str, list[int]] = {}
    for turn in range(3):
        ids = {}
        for i, (name, prompt) in enumerate(said.items()):
            hint = {"ends": True} if turn == 2 else {"verb": verb}
            ids[name] = engine.add(prompt, 6 + 3 * i, session=name, hint=hint)
            engine.add(tokens(100 * turn + i, 300), 2, hint={"ends": True})
        engine.run()
        for name, request_id in ids.items():
            answers[name] = engine.outputs[request_id]
            if turn < 2:
                said[name] = said[name] + answers[name] + tokens(40 + turn, 50)
            else:
                assert engine.cached[request_id] >= 200
    for i, name in enumerate(said):
        assert uncached(engine, said[name], 6 + 3 * i) == answers[name]


def test_nothing_is_lost(engine: TestEngine) -> None:
    two_turns(engine, 968, {"verb": "preserve"})
    engine.ask(tokens(3, 500), 4, session="stays", hint={"verb": "preserve"})
    assert engine.num_free < NUM_BLOCKS - 1
    engine.check_pool()
