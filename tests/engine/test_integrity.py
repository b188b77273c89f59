"""Random worlds, random answers, and the books checked on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf, nan
from random import Random

import numpy as np
import pytest

from rlkv_engine import rule as R
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Engine
from rlkv_engine.errors import IntegrityError
from rlkv_engine.latency import FIRST_TURNS, SESSIONS
from rlkv_engine.loop import RULE_POLICY
from rlkv_engine.profile import Profile
from rlkv_engine.trace import Trace
from tests.engine.reference_session import Turn
from tests.engine.reference_worlds import make_trace

#: Iterations and decisions that the random runs make in all, at least.
NUM_EVENTS = 800_000
NUM_BATCHES = 10
NUM_QUICK = 4  #: batches that every run of the tests makes; the slow ones make the others


def random_trace(random: Random, max_tokens: int) -> Trace:
    """Sessions that fit ``max_tokens``: zero pauses, ties, forgotten context."""
    sessions = []
    for _ in range(random.choice([3, 8, 20, 80])):
        turns: list[Turn] = []
        context, room = 0, max(2, max_tokens // random.choice([1, 2, 3, 5]))
        for _ in range(random.randint(1, 6)):
            if context + 2 > room or random.random() < 0.1:
                context = random.randint(0, min(context, room - 2))
            num_new = random.randint(0 if context else 1, max(1, (room - context) // 2))
            num_output = random.randint(1, max(1, min(room - context - num_new, 60)))
            shared = context if random.random() < 0.8 else random.randint(0, context)
            pause_s = random.choice([0.0, 0.0, 0.01, 0.25, 0.25, 1.0, random.expovariate(1.0)])
            turns.append(Turn(context + num_new, shared, num_output, pause_s))
            context += num_new + num_output
        turns[-1] = Turn(turns[-1].input_tokens, turns[-1].shared_prefix_tokens,
                         turns[-1].output_tokens, nan)  # fmt: skip
        sessions.append(turns)
    num_concurrent = random.choice([0, 0, 1, 4, 1000])
    gaps_s = [0.0] if num_concurrent else [0.0, 0.0, 0.01, 0.3]
    arrival_s = np.cumsum([random.choice(gaps_s) for _ in sessions]).tolist()
    return make_trace(sessions, arrival_s, num_concurrent)


def random_profile(random: Random) -> Profile:
    max_num_seqs = random.choice([1, 2, 8, 64])
    bytes_per_s = [20.0, 500.0, 1e4, 1e7]
    return Profile(
        name="random",
        description="a small world",
        block_size=random.randint(1, 16),
        kv_bytes_per_token=random.choice([1, 3]),
        num_device_blocks=random.randint(6, 80),
        num_host_blocks=random.choice([0, 1, 5, 40, 1000]),
        iteration_s=random.choice([0.01, 1 / 3]),
        prefill_token_s=random.choice([1e-4, 0.003]),
        prefill_token_context_s=random.choice([0.0, 1e-5]),
        decode_session_s=random.choice([0.0, 1e-3]),
        kv_token_s=random.choice([0.0, 1e-5]),
        swap_out_bytes_per_s=random.choice(bytes_per_s),
        swap_in_bytes_per_s=random.choice(bytes_per_s),
        swap_latency_s=random.choice([0.0, 0.005, 0.1]),
        prefill_iteration_s=random.choice([0.0, 0.004]),
        wake_s=random.choice([0.0, 0.006]),
        copy_iteration_s=random.choice([0.0, 0.002]),
        copy_block_s=random.choice([0.0, 0.003]),
        copy_only_iteration_s=random.choice([0.0, 0.007]),
        shared_link=random.random() < 0.5,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(max_num_seqs, random.choice([4, 64, 2048])),
    )


def random_engine(random: Random) -> Engine:
    profile = random_profile(random)
    trace = random_trace(random, profile.device_tokens)
    rule = np.zeros(R.RULE_SIZE)
    rule[R.ORDER] = random.choice([R.ORDER_REMAINING, R.ORDER_ELAPSED, R.ORDER_IDLENESS])
    rule[R.ESTIMATE] = random.randrange(3)
    rule[R.CALL_VERB] = random.choice([S.PRESERVE, S.SWAP, S.SWAP_NOW, R.CALL_LEASE])
    rule[R.RESUME_VERB] = random.choice([S.SWAP, S.DISCARD, R.AUTO])
    rule[R.GROW_VERB] = random.choice([S.SWAP, S.DISCARD, R.AUTO])
    rule[R.SWAP_RATIO] = random.choice([0.0, 1.0, 1e9])
    rule[R.EAGER] = random.random() < 0.15
    config = EngineConfig(
        slack_ratio=random.choice([0.0, 0.012, 0.3]),
        overlap_swap=random.random() < 0.8,
        chunked_prefill=random.random() < 0.8,
        requeue_to_tail=random.random() < 0.3,
        reuse_discarded=random.random() < 0.8,
        host_victims=random.random() < 0.8,
        ask_call=random.random() < 0.8,
    )
    # Rows of the table: the one tool, then all tools together.
    lease_s = np.array([random.choice([0.0, 0.1, 2.0, inf])] * 2)
    # A log keeps the engine from taking pure decode iterations in one go.
    log_rows = 1 if random.random() < 0.3 else 0
    return Engine(
        profile, trace, rule, config=config, lease_s=lease_s, log_rows=log_rows, keep_outcome=True
    )


def play(engine: Engine, random: Random) -> Iterator[None]:
    """Random answers and stops until every session has finished, one at a time."""
    while True:
        until_s = engine.now_s + random.expovariate(2.0) if random.random() < 0.2 else inf
        decision = engine.next_decision(until_s)
        if decision is None and until_s == inf:
            return
        if decision is not None:
            if decision.point == S.CALL and random.random() < 0.05:
                engine.answer(int(S.SWAP_NOW))
            else:
                lease_s = random.choice([inf, inf, 0.0, 0.05, 1.0])
                engine.answer(random.randrange(3), lease_s)
        yield


def play_out(engine: Engine, random: Random) -> None:
    for _ in play(engine, random):
        pass


def num_events(engine: Engine) -> int:
    n = engine.state.n
    return int(n[S.ITERATION] + n[S.NUM_DECISIONS])


def arrays(engine: Engine) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in engine.state._asdict().items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], what: str) -> None:
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=f"{what}: {name}")


def assert_ended_well(engine: Engine) -> None:
    """Everybody has finished, everything is free, and the cost is what the sessions waited."""
    engine.check_integrity()
    trace, st = engine.trace, engine.state
    arrived_s, finish_s = st.outcome
    assert st.n[S.NUM_FINISHED] == trace.num_sessions
    assert np.isfinite(finish_s).all() and (finish_s > arrived_s).all()
    assert (st.slot[S.PHASE] == S.EMPTY).all()
    assert st.n[S.FREE] == st.n[S.NUM_DEVICE] and st.n[S.HOST_FREE] == st.n[S.NUM_HOST]
    assert st.n[S.NUM_GENERATED] == trace.output_tokens.sum()
    total_s, counts = st.latency[:, 0], st.latency[:, 1:]
    assert counts[SESSIONS].sum() == counts[FIRST_TURNS].sum() == trace.num_sessions
    assert counts[FIRST_TURNS:].sum() == trace.num_turns
    assert np.isfinite(total_s).all() and ((total_s > 0) == counts.any(axis=1)).all()
    num_first = trace.num_concurrent or trace.num_sessions
    np.testing.assert_array_equal(arrived_s[:num_first], trace.arrival_s[:num_first])
    num_let_in = len(arrived_s[num_first:])
    np.testing.assert_array_equal(arrived_s[num_first:], np.sort(finish_s)[:num_let_in])
    active_s = finish_s - arrived_s - trace.total_pause_s
    latency_s = active_s / trace.output_tokens_per_session
    assert total_s[SESSIONS] == pytest.approx(latency_s.sum(), rel=1e-12)
    assert st.f[S.COST] == pytest.approx(latency_s.sum(), rel=1e-6)
    assert -1e-9 <= st.f[S.COST_QUEUED] <= st.f[S.COST] * (1 + 1e-9)


def run_batch(batch: int) -> int:
    """Random worlds until this batch has made its share of the events."""
    events, world = 0, 0
    while events < NUM_EVENTS / NUM_BATCHES:
        seed = f"{batch}/{world}"  # any failure can be run again alone
        random = Random(seed)
        engine = random_engine(random)
        try:
            for step, _ in enumerate(play(engine, random)):
                if step % 5 == 0:
                    engine.check_integrity()
            assert_ended_well(engine)
        except (AssertionError, IntegrityError) as error:
            raise AssertionError(f"world {seed!r}: {error}") from error
        events += num_events(engine)
        world += 1
    return events


@pytest.mark.parametrize(
    "batch",
    [
        *range(NUM_QUICK),
        *(pytest.param(i, marks=pytest.mark.slow) for i in range(NUM_QUICK, NUM_BATCHES)),
    ],
)
def test_books_add_up_and_everybody_finishes(batch: int) -> None:
    assert run_batch(batch) >= NUM_EVENTS / NUM_BATCHES


@pytest.mark.parametrize("seed", range(60))
def test_a_fork_goes_on_identically_and_independently(seed: int) -> None:
    random = Random(f"fork {seed}")
    engine = random_engine(random)
    stop = random.randrange(60)
    for step, _ in enumerate(play(engine, random)):
        if step == stop:
            break
    before, fork = arrays(engine), engine.fork()
    assert_same(before, arrays(fork), "the fork differs")
    play_out(fork, Random(seed))
    assert_ended_well(fork)
    assert_same(before, arrays(engine), "running the fork changed the parent")
    play_out(engine, Random(seed))
    assert_same(arrays(fork), arrays(engine), "the parent went another way")


@pytest.mark.parametrize("seed", range(40))
def test_stops_change_nothing(seed: int) -> None:
    whole = random_engine(Random(f"stops {seed}"))
    stopped = whole.fork()
    random = Random(seed)
    while True:
        decision = whole.next_decision()
        until_s = stopped.now_s
        while (same := stopped.next_decision(until_s)) is None and decision is not None:
            assert stopped.now_s >= until_s
            until_s = max(until_s, stopped.now_s) + random.expovariate(3.0)
        assert same == decision
        if decision is None:
            stopped.next_decision()
            break
        verb = random.randrange(3)
        whole.answer(verb)
        stopped.answer(verb)
    # Sums over pieces of a stretch differ from the sum over the stretch in the last digits only.
    np.testing.assert_allclose(whole.state.outcome, stopped.state.outcome, rtol=1e-12)
    np.testing.assert_array_equal(whole.state.n, stopped.state.n)
    np.testing.assert_allclose(whole.state.f, stopped.state.f, rtol=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_the_compiled_rule_is_the_rule_answered_from_outside(seed: int) -> None:
    engine = random_engine(Random(f"rule {seed}"))
    asked = engine.fork()
    assert engine.run(RULE_POLICY)
    while (decision := asked.next_decision()) is not None:
        asked.answer(decision.rule_verb)
    assert_ended_well(engine)
    assert_same(arrays(engine), arrays(asked), "the rule inside and outside")


@pytest.fixture(scope="module")
def middle() -> Engine:
    """An engine with running, queued and paused sessions, copies under way and host blocks."""
    for seed in range(1000):
        random = Random(f"middle {seed}")
        engine = random_engine(random)
        for _ in play(engine, random):
            st = engine.state
            paused = st.slot[S.PAUSED_LIST, : st.n[S.NUM_PAUSED]]
            if (
                st.n[S.NUM_RUN] > st.n[S.NUM_DECODING] > 0
                and st.n[S.NUM_QUEUE] > 1
                and st.n[S.NUM_SWAP_OUT] > 0
                and (st.slot[S.KEEP, paused] > 0).sum() > 1
                and st.n[S.DECISION] == 0
            ):
                return engine
    raise AssertionError("no such world")


def _first(st: S.State, row: int, count: int) -> int:
    assert st.n[count] > 0
    return int(st.slot[row, 0])


def _grow_counter(index: int) -> Callable[[S.State], None]:
    def corrupt(st: S.State) -> None:
        st.n[index] += 1

    return corrupt


def _keep_above_dev(st: S.State) -> None:
    s = _first(st, S.PAUSED_LIST, S.NUM_PAUSED)
    st.slot[S.KEEP, s] = st.slot[S.DEV, s] + 1


def _negative_keep(st: S.State) -> None:
    st.slot[S.KEEP, _first(st, S.PAUSED_LIST, S.NUM_PAUSED)] = -1


def _tokens_without_blocks(st: S.State) -> None:
    s = _first(st, S.RUN, S.NUM_RUN)
    st.slot[S.COMPUTED, s] = st.slot[S.DEV, s] * st.n[S.BLOCK_SIZE] + 1


def _lost_session(st: S.State) -> None:
    st.slot[S.PHASE, _first(st, S.QUEUE, S.NUM_QUEUE)] = S.EMPTY


def _queue_out_of_order(st: S.State) -> None:
    st.slot[S.QUEUE, :2] = st.slot[S.QUEUE, 1::-1]


def _heap_with_a_double(st: S.State) -> None:
    assert st.n[S.NUM_PAUSED] > 1
    st.slot[S.HEAP, 0] = st.slot[S.HEAP, 1]


def _inverted_host_interval(st: S.State) -> None:
    s = _first(st, S.PAUSED_LIST, S.NUM_PAUSED)
    st.slot[S.HOST_LO, s] = st.slot[S.HOST_HI, s] + 1


def _prefilling_session_lost(st: S.State) -> None:
    st.slot[S.PREFILLING, 0] = -1


def _copy_job_lost(st: S.State) -> None:
    st.n[S.SWAP_OUT_FIRST] = S.NOBODY


def _block_needed_too_late(st: S.State) -> None:
    decoding = st.slot[S.PHASE] == S.DECODE
    assert decoding.any()
    st.slot[S.DUE, decoding] += 1


def _copy_of_a_running_session(st: S.State) -> None:
    st.slot[S.JOB, _first(st, S.RUN, S.NUM_RUN)] = S.WRITE_THROUGH


def _drifted_weight(st: S.State) -> None:
    st.f[S.ACTIVE_WEIGHT] += 1e-3


def _drifted_queued_weight(st: S.State) -> None:
    st.f[S.QUEUED_WEIGHT] += 1e-3


def _session_made_up(st: S.State) -> None:
    st.n[S.NEXT_NEW] += 1
    st.n[S.NUM_FINISHED] += 1
    st.n[S.NEXT_ARRIVAL] = st.n[S.NEXT_NEW] - 1


@pytest.mark.parametrize(
    ("corrupt", "named"),
    [
        (_grow_counter(S.FREE), r"free is \d+, the slots add up to \d+"),
        (_grow_counter(S.PENDING), "pending is"),
        (_grow_counter(S.RECLAIMABLE), "reclaimable is"),
        (_grow_counter(S.PAUSED_FIRM), "paused_firm is"),
        (_grow_counter(S.HOST_FREE), "host_free is"),
        (_grow_counter(S.NUM_SWAP_OUT), "swap-outs is"),
        (_grow_counter(S.NUM_WRITE_THROUGH), "write-throughs is"),
        (_grow_counter(S.NUM_DECODING), "decoding is"),
        (_grow_counter(S.KV_DECODING), "kv_decoding is"),
        (_grow_counter(S.NUM_CALLS), "unanswered calls is"),
        (_grow_counter(S.NUM_FREE_SLOTS), "free slots is"),
        (_grow_counter(S.NUM_FINISHED), "sessions in the system"),
        (_keep_above_dev, "firm blocks outside the table"),
        (_negative_keep, "firm blocks outside the table"),
        (_tokens_without_blocks, "computed tokens without blocks"),
        (_lost_session, "queue is"),
        (_queue_out_of_order, "queue list is out of order"),
        (_heap_with_a_double, "heap is"),
        (_inverted_host_interval, "negative host blocks"),
        (_copy_of_a_running_session, "a running session is being copied out"),
        (_prefilling_session_lost, "prefilling is"),
        (_copy_job_lost, "swap-out queue is"),
        (_block_needed_too_late, "too early or too late"),
        (_drifted_weight, "active weight drifted"),
        (_drifted_queued_weight, "queued weight drifted"),
        (_session_made_up, "sessions were lost or made up"),
    ],
)
def test_what_does_not_add_up_is_named(
    middle: Engine, corrupt: Callable[[S.State], None], named: str
) -> None:
    engine = middle.fork()
    engine.check_integrity()
    corrupt(engine.state)
    with pytest.raises(IntegrityError, match=named) as caught:
        engine.check_integrity()
    assert f"iteration {engine.state.n[S.ITERATION]}, t=" in str(caught.value)
