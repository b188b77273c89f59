"""Sessions that pause on the real engine: the right tokens whatever happens to their KV."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkv_engine import state as S
from rlkv_engine.errors import InputError
from rlkv_engine.paged.engine import PagedEngine, Token
from rlkv_engine.paged.sampling import Sampling
from rlkv_engine.planner import PolicyPlanner
from tests.engine.paged.devices import DEVICES
from tests.engine.paged.small_engine import (
    BLOCK_SIZE,
    VERBS,
    FailingCopies,
    assert_right_tokens,
    mixed_verbs,
    one_verb,
    small_engine,
    use_copies,
)
from tests.engine.paged.summing_model import next_token

BOUNDARIES = [k * BLOCK_SIZE + d for k in (2, 5) for d in (-1, 0, 1)]


def run_turn(engine: PagedEngine, session: int, most: int = 500) -> list[Token]:
    """Steps until the session's turn is over; its tokens."""
    own = []
    for _ in range(most):
        for token in engine.step():
            if token.session == session:
                own.append(token)
        engine.check_integrity()
        if own and own[-1].end:
            return own
    raise AssertionError(f"session {session} did not end its turn in {most} steps")


def settle(engine: PagedEngine, most: int = 200) -> None:
    """Steps until nothing is left to compute or copy."""
    for _ in range(most):
        if engine.idle_s > 0:
            return
        engine.step()
    raise AssertionError("the engine does not come to rest")


def fill(engine: PagedEngine, tokens: int) -> None:
    """A stranger computes a prompt of so many tokens, and leaves."""
    stranger = engine.add_session(list(range(tokens)), max_new_tokens=2)
    run_turn(engine, stranger)
    engine.cancel(stranger)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("length", BOUNDARIES)
def test_a_session_goes_on_rightly_after_each_verb(verb: int, length: int, device: str) -> None:
    engine = small_engine(one_verb(verb), device=device)
    prompt = list(range(3, length + 1))
    session = engine.add_session(prompt, max_new_tokens=2)
    first = run_turn(engine, session)
    assert [token.end for token in first] == [None, "length"]
    engine.pause(session, "search")
    settle(engine)
    # Whoever is preserved stays: a stranger that needs its blocks waits for it.
    fill(engine, 40 if verb == S.PRESERVE else 80)
    engine.resume(session, [7, 8, 9], max_new_tokens=3)
    run_turn(engine, session)
    tokens = engine.tokens(session)
    assert tokens[: len(prompt)] == prompt
    assert_right_tokens(tokens[: len(prompt) + 2], len(prompt))
    assert_right_tokens(tokens, len(prompt) + 5)
    engine.cancel(session)
    engine.check_integrity()
    assert engine.state.n[S.FREE] == engine.profile.num_device_blocks
    assert engine.state.n[S.HOST_FREE] == engine.profile.num_host_blocks
    engine.close()


def resumed_after_swap(corrupt: bool, device: str) -> list[int]:
    engine = small_engine(one_verb(S.SWAP), prefix_caching=False, device=device)
    prompt = list(range(10, 50))
    session = engine.add_session(prompt, max_new_tokens=2)
    run_turn(engine, session)
    engine.pause(session, "shell")
    settle(engine)
    fill(engine, 90)
    slots = engine.state.slot
    (slot,) = np.flatnonzero(slots[S.PHASE] == S.PAUSED)
    assert slots[S.HOST_HI, slot] > slots[S.HOST_LO, slot]
    assert slots[S.DEV, slot] < 10
    if corrupt:
        tables = engine._executor.tables
        engine._arena.host[int(tables.host[slot, tables.host_hi[slot] - 1]), 1, 0, 2] += 1.0
    engine.resume(session, [5], max_new_tokens=2)
    run_turn(engine, session)
    engine.close()
    return engine.tokens(session)


@pytest.mark.parametrize("device", DEVICES)
def test_kv_comes_back_from_the_host(device: str) -> None:
    tokens = resumed_after_swap(corrupt=False, device=device)
    assert_right_tokens(tokens, 43)


@pytest.mark.parametrize("device", DEVICES)
def test_a_corrupted_host_block_shows(device: str) -> None:
    assert resumed_after_swap(True, device) != resumed_after_swap(False, device)


def test_a_shared_prompt_is_held_and_computed_once() -> None:
    engine = small_engine(one_verb(S.PRESERVE))
    system = list(range(100, 124))
    first = engine.add_session([*system, 1, 2], max_new_tokens=4)
    run_turn(engine, first)
    second = engine.add_session([*system, 3, 4, 5], max_new_tokens=4)
    run_turn(engine, second)
    assert engine.cached_tokens(first) == 0
    assert engine.cached_tokens(second) == len(system)
    pool = engine._executor.tables.device_pool
    held = engine.profile.num_device_blocks - pool.num_free
    # Prompt and all output but the last token, less the system prompt's blocks once.
    assert held == 2 * -(-(len(system) + 6) // BLOCK_SIZE) - len(system) // BLOCK_SIZE
    # Whoever is discarded takes nothing from the other.
    engine.cancel(first)
    engine.resume(second, [9], max_new_tokens=3)
    run_turn(engine, second)
    assert_right_tokens(engine.tokens(second)[: len(system) + 7], len(system) + 3)
    assert_right_tokens(engine.tokens(second), len(system) + 8)
    engine.close()


@pytest.mark.parametrize("device", DEVICES)
def test_a_changed_context_does_not_write_into_what_others_use(device: str) -> None:
    engine = small_engine(one_verb(S.PRESERVE), device=device)
    prompt = list(range(30, 54))
    sessions = [engine.add_session(prompt, max_new_tokens=3) for _ in range(2)]
    for session in sessions:
        run_turn(engine, session)
    engine.resume(sessions[0], [1, 2, 3], max_new_tokens=3, kept_tokens=18)
    run_turn(engine, sessions[0])
    engine.resume(sessions[1], [4], max_new_tokens=3)
    run_turn(engine, sessions[1])
    assert engine.tokens(sessions[0])[:21] == [*prompt[:18], 1, 2, 3]
    assert_right_tokens(engine.tokens(sessions[0]), 21)
    assert_right_tokens(engine.tokens(sessions[1]), 28)
    engine.close()


def test_discarded_kv_is_found_again_until_it_is_overwritten() -> None:
    engine = small_engine(one_verb(S.DISCARD))
    prompt = list(range(60, 84))
    session = engine.add_session(prompt, max_new_tokens=2)
    run_turn(engine, session)
    engine.cancel(session)
    again = engine.add_session(prompt, max_new_tokens=2)
    run_turn(engine, again)
    assert engine.cached_tokens(again) == len(prompt) - BLOCK_SIZE
    engine.cancel(again)
    fill(engine, 94)
    late = engine.add_session(prompt, max_new_tokens=2)
    run_turn(engine, late)
    assert engine.cached_tokens(late) == 0
    engine.close()


def test_a_stop_token_ends_a_turn() -> None:
    engine = small_engine()
    prompt = [1, 2, 3]
    session = engine.add_session(prompt, max_new_tokens=5)
    run_turn(engine, session)
    generated = engine.tokens(session)[3:]
    stopped = engine.add_session(prompt, max_new_tokens=5, stop_tokens=[generated[2]])
    assert [token.end for token in run_turn(engine, stopped)] == [None, None, "stop"]
    engine.close()


def test_a_turn_may_stop_and_sample_otherwise_than_the_one_before() -> None:
    engine = small_engine()
    session = engine.add_session([1, 2, 3], max_new_tokens=2)
    run_turn(engine, session)
    likeliest = next_token([*engine.tokens(session), 4])
    # So hot that the likeliest of 252 tokens is one among many.
    hot = Sampling(temperature=100.0, seed=3)
    engine.resume(session, [4], max_new_tokens=9, sampling=hot)
    drawn = [token.token for token in run_turn(engine, session)]
    assert drawn[0] != likeliest
    engine.resume(session, [4], max_new_tokens=9, sampling=Sampling(), stop_tokens=range(252))
    assert [token.end for token in run_turn(engine, session)] == ["stop"]
    assert_right_tokens(engine.tokens(session), 3 + 2 + 1 + 9 + 1)
    engine.close()


def test_a_caller_ends_a_turn_and_goes_on() -> None:
    engine = small_engine()
    session = engine.add_session([5, 6, 7, 8], max_new_tokens=50)
    while not engine.step():
        pass
    engine.pause(session, "search")
    settle(engine)
    engine.resume(session, [1], max_new_tokens=2)
    run_turn(engine, session)
    assert_right_tokens(engine.tokens(session)[:5], 4)
    assert_right_tokens(engine.tokens(session), 6)
    engine.close()


@pytest.mark.parametrize("device", DEVICES)
def test_a_failed_copy_costs_time_and_nothing_else(device: str) -> None:
    for fails in ([True], [False, False, True], [True, False, True, True, True]):
        engine = small_engine(one_verb(S.SWAP), prefix_caching=False, device=device)
        copies = FailingCopies(engine, fails)
        use_copies(engine, copies)
        session = engine.add_session(list(range(40)), max_new_tokens=2)
        run_turn(engine, session)
        engine.pause(session, "shell")
        settle(engine)
        fill(engine, 90)
        engine.resume(session, [5], max_new_tokens=2)
        run_turn(engine, session)
        assert 0 < copies.num_failed == engine._executor.num_failed_copies
        assert_right_tokens(engine.tokens(session), 43)
        engine.close()


def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    engine = small_engine(max_tokens=200)
    with pytest.raises(InputError, match=r"needs 26 blocks of 4 tokens, the device pool has 24"):
        engine.add_session(list(range(96)), max_new_tokens=6)
    with pytest.raises(InputError, match=r"190 tokens with up to 11 of output.* the model's 200"):
        engine.add_session(list(range(190)), max_new_tokens=11)
    with pytest.raises(InputError, match="at least one token"):
        engine.add_session([], max_new_tokens=1)
    with pytest.raises(InputError, match=r"max_new_tokens must be at least 1 .got 0"):
        engine.add_session([1], max_new_tokens=0)
    with pytest.raises(KeyError, match="no session 7"):
        engine.cancel(7)
    session = engine.add_session([1], max_new_tokens=1)
    with pytest.raises(ValueError, match="waits to be admitted"):
        engine.pause(session, "search")
    with pytest.raises(ValueError, match="not paused"):
        engine.resume(session, [1], max_new_tokens=1)
    assert run_turn(engine, session)[-1].end == "length"
    engine.close()


def test_memory_goes_with_its_engine() -> None:
    """No collector has to come by: on a GPU the next engine may need it."""
    engine = small_engine()
    arena = weakref.ref(engine._arena.device)
    gc.disable()
    try:
        engine.close()
        del engine
        assert arena() is None
    finally:
        gc.enable()


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    bias=st.tuples(*[st.floats(-2, 2)] * 3),
    seed=st.integers(0, 1000),
    changes=st.integers(1, 4),
    prefix_caching=st.booleans(),
)
def test_verbs_mixed_at_random_never_change_a_token(
    lengths: list[int], bias: tuple[float, ...], seed: int, changes: int, prefix_caching: bool
) -> None:
    engine = small_engine(mixed_verbs(bias, seed), prefix_caching=prefix_caching)
    random = np.random.default_rng(seed)
    prompts: dict[int, list[int]] = {}  # by session: where each turn's output starts
    for length in lengths:
        session = engine.add_session(random.integers(9, size=length).tolist(), max_new_tokens=3)
        prompts[session] = [length]
    paused: list[tuple[int, int]] = []
    for step in range(3000):
        if step % 7 == 0:
            # The policy changes in the middle.
            engine._planner = PolicyPlanner(
                mixed_verbs(random.normal(size=3), int(random.integers(changes)))
            )
        for token in engine.step():
            if not token.end:
                continue
            session, tokens = token.session, engine.tokens(token.session)
            if len(prompts[session]) == 3 or len(tokens) > 80:
                for start in prompts.pop(session):
                    assert_right_tokens(tokens[: start + 3], start)
                engine.cancel(session)
                continue
            engine.pause(session, str(random.choice(["search", "shell", "?"])))
            paused.append((step + int(random.integers(12)), session))
        for until, session in [due for due in paused if due[0] <= step]:
            paused.remove((until, session))
            new = random.integers(9, size=random.integers(1, 9)).tolist()
            prompts[session].append(len(engine.tokens(session)) + len(new))
            engine.resume(session, new, max_new_tokens=3)
        engine.check_integrity()
        engine._clock.wait_until(engine._clock.now_s() + min(engine.idle_s, 1.0))
        if not prompts:
            break
    assert not prompts
    assert engine.state.n[S.FREE] == engine.profile.num_device_blocks
    engine.close()
