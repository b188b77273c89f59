"""A transformer on the engine says what it says without any cache, whatever happens to its KV."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkv_agents.rules import make_rule
from rlkv_engine import state as S
from rlkv_engine.paged.attention import default_attention
from rlkv_engine.paged.clock import SimulatedClock
from rlkv_engine.paged.engine import PagedEngine
from rlkv_engine.paged.loading import LoadedModel, load_model
from rlkv_engine.planner import PolicyPlanner
from tests.engine.paged.devices import DEVICES
from tests.engine.paged.small_engine import (
    BLOCK_SIZE,
    VERBS,
    mixed_verbs,
    one_verb,
    pause_table,
    tiny_profile,
)

NEW = 4


@pytest.fixture(scope="module", params=DEVICES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    device = torch.device(request.param)
    attention = default_attention(device)
    return load_model("tiny", dtype=torch.float32, device=device, attention=attention)


def engine_of(loaded: LoadedModel, num_blocks: int = 24) -> PagedEngine:
    table = pause_table()
    return PagedEngine(
        loaded,
        tiny_profile(num_blocks),
        make_rule("house").params(table),
        table,
        prefix_caching=False,
        clock=SimulatedClock(),
    )


def uncached(loaded: LoadedModel, prompt: list[int], count: int) -> list[int]:
    """Every token from a prompt that is computed from nothing, in one piece."""
    engine = engine_of(loaded, num_blocks=64)
    tokens = list(prompt)
    for _ in range(count):
        session = engine.add_session(tokens, max_new_tokens=1)
        while not (out := engine.step()):
            pass
        tokens.append(out[0].token)
        engine.cancel(session)
    engine.close()
    return tokens[len(prompt) :]


def finish(engine: PagedEngine, session: int) -> None:
    for _ in range(500):
        if any(token.session == session and token.end for token in engine.step()):
            return
    raise AssertionError("the turn does not end")


def resumed(loaded: LoadedModel, length: int, seed: int, corrupt: bool = False) -> None:
    """A session pauses, strangers fill memory, it goes on; its policy changes as ``seed`` says."""
    random = np.random.default_rng(seed)
    engine = engine_of(loaded)
    prompt = random.integers(200, size=length - 1).tolist()
    session = engine.add_session(prompt, max_new_tokens=2)
    policy = one_verb(VERBS[seed]) if seed < 3 else mixed_verbs(random.normal(size=3), seed)
    engine._planner = PolicyPlanner(policy)
    finish(engine, session)
    engine.pause(session, "search")
    for _ in range(3):
        engine.step()
    # Each takes nearly all memory; where everything is preserved it waits, and leaves again.
    for size in (86, 70):
        if seed >= 3:
            engine._planner = PolicyPlanner(
                mixed_verbs(random.normal(size=3), int(random.integers(100)))
            )
        stranger = engine.add_session(random.integers(200, size=size).tolist(), max_new_tokens=2)
        for _ in range(60):
            if any(token.session == stranger and token.end for token in engine.step()):
                break
        engine.cancel(stranger)
    if corrupt:
        assert engine.state.slot[S.HOST_HI, engine._engine.slot_of(session)] > 0
        engine._arena.host.mul_(-1.0)
    returned = random.integers(200, size=5).tolist()
    engine.resume(session, returned, max_new_tokens=NEW)
    finish(engine, session)
    tokens = engine.tokens(session)
    engine.close()
    first = uncached(loaded, prompt, 2)
    assert tokens[length - 1 : length + 1] == first
    assert tokens[-NEW:] == uncached(loaded, [*prompt, *first, *returned], NEW)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("length", [9 * BLOCK_SIZE + d for d in (-1, 0, 1)])
def test_each_verb(loaded: LoadedModel, verb: int, length: int) -> None:
    resumed(loaded, length, seed=verb)


def test_a_corrupted_host_copy_is_noticed(loaded: LoadedModel) -> None:
    with pytest.raises(AssertionError):
        resumed(loaded, 9 * BLOCK_SIZE, seed=S.SWAP, corrupt=True)


@settings(max_examples=12, deadline=None)
@given(length=st.integers(6, 60), seed=st.integers(3, 10_000))
def test_verbs_that_change_in_the_middle(loaded: LoadedModel, length: int, seed: int) -> None:
    resumed(loaded, length, seed)
