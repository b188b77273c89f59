"""What a bundle that was trained elsewhere gives to learning on a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlkv_agents import train as train_module
from rlkv_agents.advice import Advice, describe
from rlkv_agents.bundle import Bundle, load_bundle, save_bundle
from rlkv_agents.checkpoint import load_checkpoint
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import RULES, make_rule
from rlkv_agents.train import BUNDLE_FORM, ORDER_FORM, START_RULE, TrainConfig, TrainResult, train
from rlkv_agents.tune import caution_score, validation_latency_s, validation_traces
from rlkv_agents.warm_start import bound, orders_of, take_over
from rlkv_engine.errors import InputError
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from tests.agents.small_scenario import random_network, small_scenario

SCENARIO = small_scenario()
TRACES = validation_traces(SCENARIO, 3)
SHORTEST_FIRST = np.array([-3.0] + [0.0] * (NUM_ORDER_TERMS - 1))


def no_counter(total: int) -> Callable[[], None]:
    return lambda: None


def advised(*orders: np.ndarray) -> AgentPolicy:
    """A policy that advises the plain rule everywhere, and knows orders."""
    machine = describe(SCENARIO.profile, SCENARIO.table)[None]
    advice = Advice.of_constants([House()], machine, np.zeros((1, 1)))
    known = np.array([np.zeros(NUM_ORDER_TERMS), *orders])
    advice = replace(
        advice, orders=known, order_regret=np.arange(len(known), dtype=np.float64)[None]
    )
    return AgentPolicy("many", House(), advice=advice)


def test_orders_of_a_bundle() -> None:
    (order,) = orders_of(advised(SHORTEST_FIRST))
    np.testing.assert_array_equal(order, SHORTEST_FIRST)
    (order,) = orders_of(AgentPolicy("one", House().with_order(SHORTEST_FIRST)))
    np.testing.assert_array_equal(order, SHORTEST_FIRST)
    assert orders_of(AgentPolicy("plain", House())) == []


def test_an_order_is_taken_over_where_it_validates_better() -> None:
    # Whoever is back soonest goes first: the order by expected remainder is better.
    bad = AgentPolicy("start", House().with_order(SHORTEST_FIRST))
    plain = AgentPolicy("start", House())
    bad_s, plain_s = (validation_latency_s(SCENARIO, policy, TRACES) for policy in (bad, plain))
    good_order = np.array([1.0] + [0.0] * (NUM_ORDER_TERMS - 1))
    counted: list[int] = []

    def counter(total: int) -> Callable[[], None]:
        counted.append(total)
        return lambda: counted.append(-1)

    given = take_over(
        SCENARIO, bad, advised(good_order), TRACES, bad_s, 0, True, counter
    )  # fmt: skip
    assert counted == [2, -1, -1]
    np.testing.assert_array_equal(given.start.rule.order, good_order)  # type: ignore[attr-defined]
    assert caution_score(given.start_s, bad_s) < 0.0
    np.testing.assert_array_equal(given.candidate_s, plain_s)

    kept = take_over(
        SCENARIO, plain, advised(SHORTEST_FIRST), TRACES, plain_s, 0, True, no_counter
    )  # fmt: skip
    assert kept.start is plain and kept.start_s is plain_s
    alone = take_over(
        SCENARIO, bad, advised(good_order), TRACES, bad_s, 0, False, no_counter
    )  # fmt: skip
    assert alone.start is bad


def test_a_bound_policy_answers_here_and_nowhere_else() -> None:
    network = random_network()
    here = bound(network, SCENARIO, seed=0)
    assert network.trained_range is None and here.trained_range is not None
    here_s, network_s = (validation_latency_s(SCENARIO, p, TRACES) for p in (here, network))
    assert here_s == pytest.approx(network_s, rel=0.1)
    elsewhere = small_scenario(num_host_blocks=2500)
    traces = validation_traces(elsewhere, 2)
    rule_s, here_s, network_s = (
        validation_latency_s(elsewhere, policy, traces)
        for policy in (AgentPolicy("rule", network.rule), here, network)
    )
    np.testing.assert_array_equal(here_s, rule_s)
    assert (network_s != rule_s).any()


def test_what_it_was_not_trained_on_stays_with_the_rule() -> None:
    low, high = np.full(44, -np.inf), np.full(44, np.inf)
    high[0] = -1.0
    network = replace(random_network(), trained_range=(low, high))
    found = bound(network, SCENARIO, seed=0).trained_range
    assert found is not None and found[1][0] == -1.0


@pytest.fixture
def tiny_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ForkedLearner, "traces_per_round", 1)
    monkeypatch.setattr(ForkedLearner, "forks_per_trace", 10)
    # Verbs that are learnt here are not what is tested.
    monkeypatch.setattr(ForkedLearner, "learning_rate", 1e-4)
    monkeypatch.setattr(train_module, "RULES", {START_RULE: RULES[START_RULE]})
    monkeypatch.setattr(RULES[START_RULE], "grid", {"guard_pauses": (20.0,)})
    monkeypatch.setattr(train_module, "validation_traces", lambda s: TRACES)


def learn(
    folder: Path, bundle: AgentPolicy | None, rounds: int = 2, resume: bool = False
) -> TrainResult:
    warm = None
    if bundle is not None:
        save_bundle(folder / "bundle", bundle, {})
        warm = load_bundle(folder / "bundle")
    config = TrainConfig(num_rounds=rounds, order_rounds=1)
    return train(SCENARIO, config, folder / "run", warm_start=warm, resume=resume)


@pytest.mark.usefixtures("tiny_training")
def test_a_better_bundle_is_what_is_kept(tmp_path: Path) -> None:
    # The tuned rule takes from nobody who is soon back: nearly everything is better.
    better = AgentPolicy("better", House(slack_ratio=0.5))
    result = learn(tmp_path, better)
    (point,) = [p for p in result.progress.curve if p.get("form") == BUNDLE_FORM]
    assert point["chosen"] and point["score"] < -0.05
    assert result.progress.best_score == point["score"]
    assert result.policy.rule == better.rule != result.ordered.rule
    better_s = validation_latency_s(SCENARIO, better, TRACES)
    np.testing.assert_array_equal(validation_latency_s(SCENARIO, result.policy, TRACES), better_s)
    # And after a resume too, from what the checkpoint holds.
    progress, _, best = load_checkpoint(tmp_path / "run", {})
    assert best and progress.best_rule
    again = learn(tmp_path, better, resume=True)
    assert again.policy.rule == better.rule and again.progress.curve == result.progress.curve


@pytest.mark.usefixtures("tiny_training")
def test_a_worse_bundle_changes_nothing_but_the_orders_tried(tmp_path: Path) -> None:
    worse = AgentPolicy("worse", House(guard_pauses=200.0))
    result = learn(tmp_path, worse)
    points = {p["form"]: p for p in result.progress.curve if p.get("form") == BUNDLE_FORM}
    assert not points[BUNDLE_FORM]["chosen"] and result.policy.rule != worse.rule
    assert result.progress.best_score <= 0.0
    assert [p["form"] for p in result.progress.curve[1:4]] == [BUNDLE_FORM, ORDER_FORM, ORDER_FORM]


@pytest.mark.usefixtures("tiny_training")
def test_a_run_goes_on_with_its_own_bundle_only(tmp_path: Path) -> None:
    learn(tmp_path, advised(SHORTEST_FIRST))
    with pytest.raises(
        InputError, match=r"the checkpoint has warm_start '[0-9a-f]+', this run None"
    ):
        learn(tmp_path, None, resume=True)
    with pytest.raises(InputError, match="needs a policy on the house rule, not on lru"):
        train(
            SCENARIO, TrainConfig(), tmp_path,
            warm_start=Bundle(AgentPolicy("lru", make_rule("lru")), {"weights_sha256": "0" * 64}),
        )  # fmt: skip
