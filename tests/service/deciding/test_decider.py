from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlkv_agents.advice import Advice, candidates
from rlkv_agents.house_rule import House
from rlkv_agents.inference import BatchInference
from rlkv_agents.policy import AgentPolicy, range_of
from rlkv_agents.rules import make_rule
from rlkv_engine import facts as F
from rlkv_engine.observe import FEATURES, NUM_FEATURES, observe_facts
from rlkv_engine.victim_order import NUM_ORDER_TERMS, ORDER_TERMS
from rlkv_envs.scenario import Scenario, load_scenario
from rlkv_service.columns import LARGEST, SMALLEST, DecisionRows, VerdictRows, check_facts
from rlkv_service.deciding.active_bundle import ActiveBundle
from rlkv_service.deciding.check_rows import made_up_rows
from rlkv_service.deciding.decider import Asked, Decider
from rlkv_service.local_rule import LocalRule
from rlkv_service.schema import Point, Reason, Verb
from tests.agents.small_scenario import random_network, small_scenario
from tests.agents.small_trees import one_split
from tests.service.deciding.simulated import active, part_of, simulated, with_facts
from tests.service.deciding.table_estimates import TableEstimates

UNKNOWN = ("device_blocks", "dirty_blocks", "life_s", "tool_wait_s", "remaining_s",
           "mean_pause_s", "swap_is_legal", "rule_verb")  # fmt: skip


def partly_trained(scenario: Scenario) -> AgentPolicy:
    policy = random_network(hidden=16)
    rows, _ = simulated(scenario, policy, 1)
    observations = np.empty((len(rows), NUM_FEATURES), np.float32)
    observe_facts(rows.facts, observations)
    low, high = observations.min(axis=0).astype(float), observations.max(axis=0).astype(float)
    context = [feature.name for feature in FEATURES].index("context")
    high[context] = np.median(observations[:, context])
    return replace(policy, trained_range=range_of(low, high), min_confidence=0.99)


def decided(verdicts: VerdictRows, reason: Reason) -> int:
    return int((verdicts.reason == reason).sum())


@pytest.mark.parametrize(
    "policy",
    [
        random_network(hidden=96),
        random_network(1),
        replace(random_network(2), min_confidence=0.9),
        AgentPolicy("trees", House(guard_pauses=0.5, write_through=1.0), trees=one_split()),
        replace(random_network(3), trees=one_split()),
        AgentPolicy("two-tier-lru", make_rule("two-tier-lru"), random_network(4).weights, 0.5),
        AgentPolicy("swap", make_rule("swap"), random_network(5).weights, 0.5),
    ],
    ids=["wide", "small", "unsure", "trees", "both", "other rule", "swaps at once"],
)
def test_verbs_are_those_of_the_policy_in_the_engine(policy: AgentPolicy) -> None:
    rows, verbs = simulated(small_scenario(4.0, num_sessions=200), policy, 4)
    verdicts = Decider(active(policy)).decide("engine", rows)
    assert len(rows) > 2000 and (verbs != rows.facts[:, F.RULE_VERB]).any()
    np.testing.assert_array_equal(verdicts.verb, verbs)
    np.testing.assert_array_equal(verdicts.rule_verb, rows.facts[:, F.RULE_VERB])


def test_verbs_of_a_policy_that_does_not_know_everything() -> None:
    scenario = small_scenario(4.0)
    policy = partly_trained(scenario)
    rows, verbs = simulated(scenario, policy)
    verdicts = Decider(active(policy)).decide("engine", rows)
    np.testing.assert_array_equal(verdicts.verb, verbs)
    for reason in (Reason.POLICY, Reason.UNSURE, Reason.OUTSIDE):
        assert decided(verdicts, reason) > 20
    by_rule = verdicts.reason != Reason.POLICY
    np.testing.assert_array_equal(verdicts.fallback_used, by_rule)
    np.testing.assert_array_equal(verdicts.verb[by_rule], verdicts.rule_verb[by_rule])
    unsure = verdicts.reason == Reason.UNSURE
    assert (verdicts.policy_verb != verdicts.rule_verb)[unsure].all()
    assert (verdicts.confidence[unsure] <= 0.99).all()


@pytest.mark.parametrize("name", ["crossover-slow", "coding"])
def test_verbs_of_the_universal_bundle(name: str) -> None:
    scenario, bundle = load_scenario(name), ActiveBundle.load("universal")
    rows, verbs = simulated(scenario, bundle.policy, 1)
    verdicts = Decider(bundle, TableEstimates(scenario.table)).decide("engine", rows)
    assert len(rows) == 4000
    np.testing.assert_array_equal(verdicts.verb, verbs)
    if name == "crossover-slow":  # where it leaves the rule
        assert (verdicts.verb != verdicts.rule_verb).any()
    assert bundle.version == "universal@" + bundle.metadata["weights_sha256"][:12]


def test_rows_that_are_decided_together_are_decided_alike() -> None:
    scenario = small_scenario(4.0)
    rows, _ = simulated(scenario, random_network(), 1)
    decider = Decider(active(random_network()), TableEstimates(scenario.table))
    unknown = with_facts(rows, **dict.fromkeys(UNKNOWN, np.nan))
    asked = [
        Asked("b", part_of(rows, 0, 7)),
        Asked("a", part_of(unknown, 7, 8)),
        Asked("b", part_of(unknown, 8, 40)),
        Asked("a", part_of(rows, 40, 43)),
    ]
    together = decider.decide_many(asked)
    for each, verdicts in zip(asked, together, strict=True):
        alone = decider.decide(*each)
        for name in VerdictRows.__dataclass_fields__:
            if name != "confidence":
                np.testing.assert_array_equal(getattr(verdicts, name), getattr(alone, name))
        # In float32 the last bit hangs on how many rows a processor multiplies at once.
        np.testing.assert_allclose(verdicts.confidence, alone.confidence, rtol=1e-6)


def test_machines_in_one_request_are_told_apart() -> None:
    rows = with_facts(made_up_rows(64), rule_verb=np.nan)
    rows.facts[::2, F.NUM_DEVICE_BLOCKS] *= 2.0
    decider = Decider(ActiveBundle.load("universal"))
    verdicts = decider.decide("", rows)
    for start in (0, 1):
        alone = DecisionRows(
            rows.sessions[start::2], rows.turns[start::2], rows.tools[start::2],
            rows.facts[start::2].copy(),
        )  # fmt: skip
        expected = decider.decide("", alone)
        np.testing.assert_array_equal(verdicts.verb[start::2], expected.verb)
        np.testing.assert_array_equal(verdicts.reason[start::2], expected.reason)


def test_the_local_rule_supposes_the_same_of_what_is_unknown() -> None:
    rows = with_facts(made_up_rows(), **dict.fromkeys(UNKNOWN, np.nan))
    rule = House(guard_pauses=1.0, swap_ratio=0.5)
    verdicts = Decider(active(AgentPolicy("house", rule))).decide("", rows)
    local = LocalRule(guard_pauses=1.0, swap_ratio=0.5).verdicts(rows, Reason.LATE)
    np.testing.assert_array_equal(verdicts.rule_verb, local.verb)
    np.testing.assert_array_equal(verdicts.verb, local.verb)
    np.testing.assert_array_equal(verdicts.soft_priority, local.soft_priority)
    np.testing.assert_allclose(verdicts.lease_s, local.lease_s, rtol=1e-6)
    np.testing.assert_allclose(verdicts.expected_return_p50_s, local.expected_return_p50_s)


def test_priorities_follow_the_learned_order() -> None:
    rows = made_up_rows(64)
    rows.facts[:, F.REMAINING_S] = rows.facts[0, F.REMAINING_S]
    weights = np.zeros(NUM_ORDER_TERMS)
    weights[[term.name for term in ORDER_TERMS].index("turns")] = 0.5
    plain, learned = (
        Decider(active(AgentPolicy("rule", rule))).decide("", rows)
        for rule in (House(), House().with_order(weights))
    )
    assert len(set(plain.soft_priority[rows.facts[:, F.MEAN_PAUSE_S] == 1.0].tolist())) <= 1
    np.testing.assert_array_equal(plain.verb, learned.verb)
    # Who has had many turns goes first.
    order = np.argsort(rows.facts[:, F.NUM_TURNS] ** 0.5 / rows.facts[:, F.MEAN_PAUSE_S])
    assert (np.diff(learned.soft_priority[order]) <= 0).all()
    assert len(set(learned.soft_priority.tolist())) > 3


def test_the_rule_follows_from_the_facts_where_the_engine_does_not_say_it() -> None:
    scenario = small_scenario(4.0)
    for rule in (House(), House(guard_pauses=2.0, swap_ratio=0.3, write_through=0.0),
                 make_rule("lazy"), make_rule("lazy-swap")):  # fmt: skip
        policy = AgentPolicy("rule", rule)
        rows, verbs = simulated(scenario, policy)
        verdicts = Decider(active(policy)).decide("", with_facts(rows, rule_verb=np.nan))
        np.testing.assert_array_equal(verdicts.rule_verb, verbs)


def test_estimates_fill_what_the_engine_does_not_know() -> None:
    scenario = small_scenario(4.0)
    rows, _ = simulated(scenario, random_network())
    decider = Decider(active(random_network()), TableEstimates(scenario.table))
    known = decider.decide("", rows)
    verdicts = decider.decide("", with_facts(rows, remaining_s=np.nan, mean_pause_s=np.nan))
    np.testing.assert_array_equal(verdicts.verb, known.verb)
    kept = verdicts.verb == Verb.PRESERVE
    np.testing.assert_array_equal(
        verdicts.lease_s, np.where(kept, verdicts.expected_return_p90_s, 0.0)
    )
    assert (verdicts.expected_return_p90_s >= verdicts.expected_return_p50_s).all()


def test_a_policy_that_only_watches() -> None:
    scenario = small_scenario(4.0)
    rows, verbs = simulated(scenario, random_network())
    verdicts = Decider(active(random_network()), shadow=True).decide("", rows)
    np.testing.assert_array_equal(verdicts.verb, verdicts.rule_verb)
    np.testing.assert_array_equal(verdicts.policy_verb, verbs)
    assert decided(verdicts, Reason.SHADOW) == len(rows)


def test_below_the_threshold_the_rule_answers() -> None:
    scenario = small_scenario(4.0)
    rows, _ = simulated(scenario, random_network())
    bundle = active(random_network())
    verdicts = Decider(bundle, min_confidence=0.9).decide("", rows)
    departs = verdicts.policy_verb != verdicts.rule_verb
    unsure = departs & (verdicts.confidence < 0.9)
    assert 0 < unsure.sum() < departs.sum()
    np.testing.assert_array_equal(verdicts.reason == Reason.UNSURE, unsure)
    np.testing.assert_array_equal(verdicts.verb[unsure], verdicts.rule_verb[unsure])
    assert (verdicts.confidence[~departs] == 1.0).all()
    # Where the bundle has a table, that is what the threshold is compared with.
    row = {"low": 0.0, "high": 1.0, "num": 998, "worse": 0.5}
    calibrated = Decider(active(random_network(), reliability=[row]), min_confidence=0.6)
    verdicts = calibrated.decide("", rows)
    np.testing.assert_array_equal(verdicts.reason == Reason.UNSURE, departs)
    assert (verdicts.confidence[departs] == 0.5).all()


def test_the_rule_answers_where_nobody_left_it() -> None:
    scenario = small_scenario(4.0)
    machines = np.array([[0.0, 0.0, 0.0, 0.5]])
    regret = np.ones((1, len(candidates())))
    regret[0, 17] = 0.0
    for departs in (0.0, 1.0):
        advice = replace(
            Advice.of_constants(candidates(), machines, regret), departs=np.array([departs])
        )
        policy = replace(random_network(), advice=advice)
        rows, verbs = simulated(scenario, policy)
        decider = Decider(active(policy), TableEstimates(scenario.table))
        verdicts = decider.decide("", with_facts(rows, rule_verb=np.nan))
        np.testing.assert_array_equal(verdicts.verb, verbs)
        reason = Reason.POLICY if departs else Reason.NO_POLICY
        assert decided(verdicts, reason) == len(rows)


@given(
    arrays(
        np.float64,
        (3, F.NUM_FACTS),
        elements=st.one_of(
            st.floats(0.0, LARGEST), st.sampled_from([0.0, SMALLEST, 1.0, LARGEST, np.nan])
        ),
    )
)
def test_whatever_the_facts_are_there_is_a_verdict(facts: np.ndarray) -> None:
    facts[:, F.POINT] = [Point.CALL, Point.NEW, Point.GROW]
    for i, fact in enumerate(F.FACTS):
        if fact.default is not None and not np.isnan(fact.default):
            facts[:, i] = np.nan_to_num(facts[:, i], nan=fact.default)
        elif fact.default is None:
            facts[:, i] = np.nan_to_num(facts[:, i], nan=1.0)
    above_0 = [F.BLOCK_SIZE, F.NUM_DEVICE_BLOCKS, F.MAX_NUM_SEQS, F.PREFILL_TOKEN_S, F.MEAN_PAUSE_S]
    facts[:, above_0] = np.maximum(facts[:, above_0], SMALLEST)
    check_facts(facts)
    rows = DecisionRows(["a", "b", "c"], np.zeros(3, np.int64), ["t"] * 3, facts)
    for bundle in (ActiveBundle.load("universal"), active(random_network())):
        verdicts = Decider(bundle).decide("", rows)
        assert np.isin(verdicts.verb, list(Verb)).all()
        assert (verdicts.lease_s >= 0.0).all()
        assert ((verdicts.confidence >= 0.0) & (verdicts.confidence <= 1.0)).all()
        assert ((verdicts.soft_priority >= 0) & (verdicts.soft_priority <= 100)).all()


def test_float32_is_only_trusted_where_it_is_clear() -> None:
    # Logits that tie to the last bit: the network must fall back on float64.
    policy = random_network(hidden=96)
    assert policy.weights is not None
    *inner, weight_3, bias_3 = policy.weights
    weight_3 = np.tile(weight_3[:1], (3, 1)) * (1.0 + 1e-9 * np.array([[0.0], [2.0], [1.0]]))
    near = replace(policy, weights=[*inner, weight_3, np.repeat(bias_3[:1], 3)], prior=0.0)
    rows = made_up_rows()
    observations = np.empty((len(rows), NUM_FEATURES), np.float32)
    filled = with_facts(rows, device_blocks=1.0, dirty_blocks=1.0, life_s=2.0, tool_wait_s=1.0,
                        swap_is_legal=1.0, rule_verb=2.0)  # fmt: skip
    observe_facts(filled.facts, observations)
    expected = BatchInference(near)(observations, np.ones((len(rows), 3), np.bool_)).verb
    verdicts = Decider(active(near)).decide("", filled)
    np.testing.assert_array_equal(verdicts.policy_verb, expected)
    assert len(set(expected.tolist())) > 1
