"""Forked costs are what an engine of one's own, forked by hand, says they are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkv_agents import side_by_side
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.forking import Forks, empty_forks, follow, fork_rollouts
from rlkv_agents.house_rule import House
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Engine
from rlkv_engine.layout import build_state, grow_slots
from rlkv_engine.loop import FULL
from rlkv_engine.state import State
from rlkv_engine.trace import Trace
from rlkv_envs.scenario import Scenario
from tests.agents.small_scenario import random_network, small_scenario

SCENARIO = small_scenario(rate_per_s=2.0, num_sessions=40)
POLICY = replace(random_network(), rule=House(guard_pauses=1.0))
HORIZON_S = 4.0


def follow_all(
    trace: Trace,
    fork_ratio: float,
    *,
    num_slots: int = 128,
    horizon_s: float = HORIZON_S,
    ask_call: bool = False,
    scenario: Scenario = SCENARIO,
    uniforms: NDArray[np.float64] | None = None,
) -> tuple[Forks, int, State]:
    """One trace to its end: forks, decisions, and the stack afterwards."""
    table = scenario.table
    stack = build_state(
        scenario.profile, [trace], table, POLICY.rule.params(table),
        EngineConfig(ask_call=ask_call), num_engines=2, num_slots=num_slots, keep_latencies=False,
        keep_outcome=True,
    )  # fmt: skip
    forks, done = empty_forks(5000), np.zeros(2, np.int64)
    if uniforms is None:
        uniforms = random_uniforms()
    compiled = POLICY.compiled()
    while follow(stack, compiled, uniforms, fork_ratio, horizon_s, forks, done) == FULL:
        stack = grow_slots(stack)
    k = int(done[1])
    met = Forks(forks.observation[:k], forks.mask[:k], forks.probability[:k], forks.cost[:k])
    return met, int(done[0]), stack


def random_uniforms(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random(65536)


def probabilities(observation: NDArray[np.float32], swap_legal: bool) -> NDArray[np.float64]:
    assert POLICY.weights is not None
    weight_1, bias_1, weight_2, bias_2, weight_3, bias_3 = POLICY.weights
    x = observation.astype(np.float64)
    hidden = np.tanh(weight_2 @ np.tanh(weight_1 @ x + bias_1) + bias_2)
    logits = weight_3 @ hidden + bias_3 + POLICY.prior * x[-3:]
    if not swap_legal:
        logits[1] = -np.inf
    exp = np.exp(logits - logits.max())
    return np.asarray(exp / exp.sum())


def branch_cost(engine: Engine, verb: int, horizon_s: float) -> float:
    """A verb, then the greedy policy: the integral of the weight of waiting sessions."""
    fork = engine.fork()
    start, until_s = fork.state.f[S.COST], fork.now_s + horizon_s
    fork.answer(verb)
    fork.run(POLICY.compiled(), until_s)
    late = max(0.0, fork.now_s - until_s)
    return float(fork.state.f[S.COST] - fork.state.f[S.ACTIVE_WEIGHT] * late - start)


@pytest.mark.parametrize(("ask_call", "horizon_s"), [(False, HORIZON_S), (True, 1.0)])
def test_every_branch_costs_what_a_fork_by_hand_costs(ask_call: bool, horizon_s: float) -> None:
    trace = SCENARIO.trace(0, "train")
    uniforms = random_uniforms()
    forks, num_decisions, stack = follow_all(trace, 1.0, ask_call=ask_call, horizon_s=horizon_s)
    table = SCENARIO.table
    engine = Engine(
        SCENARIO.profile, trace, POLICY.rule.params(table), table=table,
        config=EngineConfig(ask_call=ask_call), keep_outcome=True,
    )  # fmt: skip
    number = k = 0
    while (decision := engine.next_decision()) is not None:
        observation = engine.observe()
        expected = probabilities(observation, decision.swap_legal)
        # Growing sessions ask often and about little: fewer of those are forked.
        if uniforms[2 * number + 1] < (0.3 if decision.point == S.GROW else 1.0):
            np.testing.assert_array_equal(forks.observation[k], observation)
            assert forks.mask[k].tolist() == [True, decision.swap_legal, True]
            np.testing.assert_allclose(forks.probability[k], expected, rtol=1e-9, atol=1e-15)
            for verb in range(3):
                cost = branch_cost(engine, verb, horizon_s) if forks.mask[k, verb] else 0.0
                assert forks.cost[k, verb] == pytest.approx(cost, rel=1e-9, abs=1e-12)
            k += 1
        draw = uniforms[2 * number]
        choice = 0 if draw < expected[0] else 1 if draw < expected[0] + expected[1] else 2
        engine.answer(choice)
        number += 1
    assert (number, k) == (num_decisions, len(forks.mask))
    assert num_decisions > 100 and k > 50
    # Verbs differ somewhere, and illegal swaps were met.
    legal = forks.mask.all(axis=1)
    assert (np.ptp(forks.cost[legal], axis=1) > 0).any()
    np.testing.assert_array_equal(stack.outcome[0], engine.state.outcome)


def test_a_tight_host_makes_some_swaps_illegal() -> None:
    scenario = small_scenario(rate_per_s=2.0, num_sessions=40, num_host_blocks=40)
    forks, _, _ = follow_all(scenario.trace(0, "train"), 1.0, scenario=scenario)
    illegal = ~forks.mask[:, 1]
    assert illegal.any() and not illegal.all()
    assert (forks.cost[illegal, 1] == 0).all() and (forks.probability[illegal, 1] == 0).all()
    np.testing.assert_allclose(forks.probability.sum(axis=1), 1.0)


def test_forking_does_not_disturb_the_main_path() -> None:
    trace = SCENARIO.trace(1, "train")
    _, num_plain, plain = follow_all(trace, 0.0)
    forks, num_forked, forked = follow_all(trace, 1.0)
    assert num_plain == num_forked and len(forks.mask) > 0
    np.testing.assert_array_equal(plain.n[0], forked.n[0])
    np.testing.assert_array_equal(plain.f[0, : S.SPARE], forked.f[0, : S.SPARE])
    np.testing.assert_array_equal(plain.outcome[0], forked.outcome[0])


def test_a_verb_tried_twice_costs_the_same() -> None:
    trace = SCENARIO.trace(2, "train")
    first, again = (follow_all(trace, 1.0)[0] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    # How many others are forked does not matter to a decision.
    few, _, _ = follow_all(trace, 0.3)
    where = {row.tobytes(): i for i, row in enumerate(first.observation)}
    rows = [where[row.tobytes()] for row in few.observation]
    assert 0 < len(rows) < len(where)
    np.testing.assert_array_equal(first.cost[rows], few.cost)


def test_branches_that_run_out_of_slots_go_on_with_more() -> None:
    scenario = replace(SCENARIO, rate_per_s=20.0)
    trace = scenario.trace(0, "train")
    roomy, num_roomy, big = follow_all(trace, 1.0, scenario=scenario)
    tight, num_tight, grown = follow_all(trace, 1.0, num_slots=1, scenario=scenario)
    assert grown.slot.shape[2] > scenario.profile.block_size
    assert num_roomy == num_tight
    for one, other in zip(roomy, tight, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(big.outcome[0], grown.outcome[0])


def test_over_a_longer_horizon_everything_costs_more() -> None:
    trace = SCENARIO.trace(0, "train")
    short, long = (follow_all(trace, 1.0, horizon_s=h)[0] for h in (1.0, 8.0))
    np.testing.assert_array_equal(short.observation, long.observation)
    assert (short.cost[short.mask] <= long.cost[short.mask] + 1e-12).all()
    assert (short.cost[short.mask] >= 0).all()


def test_choices_follow_the_probabilities() -> None:
    # Draws of 0 always take the first verb, draws close to 1 the last.
    trace = SCENARIO.trace(0, "train")
    ends = []
    for draw in (0.0, np.nextafter(1.0, 0.0)):
        _, _, stack = follow_all(trace, 0.0, uniforms=np.full(64, draw))
        ends.append(stack.outcome[0, S.FINISH_S].copy())
        verb = 0 if draw == 0.0 else 2
        table = SCENARIO.table
        engine = Engine(
            SCENARIO.profile, trace, POLICY.rule.params(table), table=table,
            config=EngineConfig(ask_call=False), keep_outcome=True,
        )  # fmt: skip
        while engine.next_decision() is not None:
            engine.answer(verb)
        np.testing.assert_array_equal(ends[-1], engine.state.outcome[S.FINISH_S])
    assert (ends[0] != ends[1]).any()


def test_rollouts_over_several_traces() -> None:
    traces = [SCENARIO.trace(seed, "train") for seed in range(3)]

    def rollouts(seed: int) -> tuple[Forks, int]:
        return fork_rollouts(
            SCENARIO, POLICY, traces, forks_per_trace=30, horizon_s=HORIZON_S,
            rng=np.random.default_rng(seed),
        )  # fmt: skip

    forks, num_decisions = rollouts(0)
    assert 10 < len(forks.mask) <= 3 * 30 < num_decisions
    shapes = {name: array.shape[1:] for name, array in forks._asdict().items()}
    assert shapes["mask"] == shapes["cost"] == shapes["probability"] == (3,)
    assert (forks.mask[:, [0, 2]]).all()
    again, other = rollouts(0), rollouts(1)
    np.testing.assert_array_equal(forks.cost, again[0].cost)
    assert forks.cost.shape != other[0].cost.shape or (forks.cost != other[0].cost).any()


def test_traces_side_by_side_are_forked_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = [SCENARIO.trace(seed, "train") for seed in range(4)]
    found = []
    for num_threads in (1, 4):
        monkeypatch.setattr(side_by_side, "_num_threads", num_threads)
        found.append(
            fork_rollouts(
                SCENARIO, POLICY, traces, forks_per_trace=20, horizon_s=HORIZON_S,
                rng=np.random.default_rng(0),
            )
        )  # fmt: skip
    (one, num_one), (other, num_other) = found
    assert num_one == num_other
    for name, array in one._asdict().items():
        np.testing.assert_array_equal(array, getattr(other, name), err_msg=name)


def test_where_memory_never_runs_short_there_is_nothing_to_learn() -> None:
    profile = replace(SCENARIO.profile, num_device_blocks=100_000)
    roomy = replace(SCENARIO, profile=profile)
    learner = ForkedLearner(roomy, House(), seed=0)
    before = learner.tensors()
    metrics = learner.run_round(0)
    assert metrics == {"time/total_timesteps": 0.0}
    for name, array in learner.tensors().items():
        np.testing.assert_array_equal(array, before[name])
    assert all(math.isinf(value) for value in learner.extremes[0])
