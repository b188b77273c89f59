"""What a client sees of a pause while strangers fill the memory of a real server."""

from __future__ import annotations

import httpx
import pytest

from rlkv.bench.vllm_pace import wait_for_usage
from rlkv.real_vllm.player import said_of
from rlkv.real_vllm.server import BLOCK_SIZE, VllmServer, completion
from tests.vllm.server.agent import LONG_S, NUM_BLOCKS, Agent, press, text
from tests.vllm.server.deployment import event

#: Tokens of a first turn: 30 blocks.
CONTEXT = 960


def test_stock_vllm_has_nothing_left(stock: VllmServer) -> None:
    assert "rlkv is off, vLLM serves without it: policy is off" in stock.complaints
    agent = Agent(stock, "stock", 1)
    agent.turn(CONTEXT)
    press(stock, 1)
    agent.turn(40)
    assert agent.cached == 0
    agent.turn(40)
    assert agent.cached >= CONTEXT  # of what nobody has taken it reuses everything
    assert agent.answer == agent.uncached_answer()


@pytest.mark.parametrize("verb", ["preserve", "swap"])
def test_every_full_block_is_there_again(plugged: VllmServer, verb: str) -> None:
    copied = _copied_in(plugged)
    agent = Agent(plugged, f"kept-{verb}", 2)
    agent.turn(CONTEXT, verb=verb, lease_s=LONG_S)
    press(plugged, 2)
    agent.turn(40, ends=True)
    assert agent.cached == CONTEXT
    assert agent.answer == agent.uncached_answer()
    assert _copied_in(plugged) - copied == (CONTEXT if verb == "swap" else 0)


def test_without_a_lease_nothing_is_there_again(plugged: VllmServer) -> None:
    agent = Agent(plugged, "no-lease", 3)
    agent.turn(CONTEXT, verb="preserve", lease_s=0.0)
    press(plugged, 3)
    agent.turn(40, ends=True)
    assert agent.cached == 0


@pytest.mark.parametrize("verb", ["preserve", "swap"])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_no_block_counts_whose_last_token_has_no_kv(
    plugged: VllmServer, verb: str, more: int
) -> None:
    # The last token of an answer is never computed: KV is there of one less than the context has.
    agent = Agent(plugged, f"boundary-{verb}-{more}", 4)
    agent.turn(10 * BLOCK_SIZE + more - 2, 2, verb=verb, lease_s=LONG_S)
    assert len(agent.context) == 10 * BLOCK_SIZE + more
    press(plugged, 4)
    agent.turn(40, ends=True)
    assert agent.cached == (10 if more == 1 else 9) * BLOCK_SIZE
    assert agent.answer == agent.uncached_answer()


def test_what_others_share_survives_a_discard(plugged: VllmServer) -> None:
    shared = text(5, 8 * BLOCK_SIZE)
    keeps = Agent(plugged, "keeps", 5, shared)
    keeps.turn(100, verb="preserve", lease_s=LONG_S)
    gives_up = Agent(plugged, "gives-up", 6, shared)
    gives_up.turn(100, verb="discard")
    assert gives_up.cached == len(shared)
    press(plugged, 5)
    # Its own part is gone, the shared one is not.
    gives_up.turn(40, ends=True)
    assert gives_up.cached == len(shared)
    keeps.turn(40, ends=True)
    assert keeps.cached == len(shared) + 3 * BLOCK_SIZE
    assert keeps.answer == keeps.uncached_answer()


def test_the_preserved_make_room_for_who_needs_it(plugged: VllmServer) -> None:
    free = int(0.1 * NUM_BLOCKS)
    paused = [Agent(plugged, f"paused-{i}", 10 + i) for i in range(3)]
    for agent in paused:
        agent.turn((NUM_BLOCKS - 1 - free) // 3 * BLOCK_SIZE, 1, verb="preserve", lease_s=LONG_S)
    wait_for_usage(plugged, at_least=0.85)
    released, preempted = event(plugged, "released_blocks"), _preemptions(plugged)
    # Three times what is free; vLLM by itself would wait for a lease to end.
    plugged.complete(text(20, 3 * free * BLOCK_SIZE), 1, **said_of("large", 0, ends=True))
    for agent in paused:
        agent.end()
    wait_for_usage(plugged, at_most=0.0)
    assert event(plugged, "released_blocks") - released >= free
    assert _preemptions(plugged) == preempted


def test_who_hangs_up_leaves_nothing(plugged: VllmServer) -> None:
    wait_for_usage(plugged, at_most=0.0)
    aborted = event(plugged, "aborted")
    agent = Agent(plugged, "hangs-up", 30)
    agent.turn(CONTEXT, verb="preserve", lease_s=LONG_S)
    for turn in range(1, 4):
        # Its own next turn, and a stranger's only one.
        for prompt, name in ((agent.context, agent.name), (text(31 + turn, 200), "nobody")):
            _hang_up(plugged, prompt, name, turn)
            if name == agent.name and turn < 3:
                # Whoever comes back after that is served like anybody else.
                agent.turn(8, verb="preserve", lease_s=LONG_S)
    wait_for_usage(plugged, at_most=0.0)
    assert event(plugged, "aborted") - aborted == 6


def _hang_up(server: VllmServer, prompt: list[int], session: str, turn: int) -> None:
    body = completion(prompt, 1500 - len(prompt)) | {"stream": True}
    body |= said_of(session, turn, "search")
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60.0) as stream:
        assert next(stream.iter_lines()).startswith("data: {")


def _copied_in(server: VllmServer) -> float:
    return server.metric("vllm:prompt_tokens_by_source_total", source="external_kv_transfer")


def _preemptions(server: VllmServer) -> float:
    return server.metric("vllm:num_preemptions_total")
