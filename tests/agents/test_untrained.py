"""What has learnt nothing decides exactly as the rule it started at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rlkv_agents.actor import Actor
from rlkv_agents.base_rule import Rule
from rlkv_agents.evaluate import run_policy
from rlkv_agents.forked_learner import ForkedLearner
from rlkv_agents.house_rule import House
from rlkv_agents.inference import greedy_verbs
from rlkv_agents.policy import RANGE_FEATURES, AgentPolicy, range_of
from rlkv_agents.rule_start_policy import RuleStartPolicy
from rlkv_agents.rules import LazySwap, make_rule
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.loop import make_policy
from rlkv_engine.mlp import mlp_verb
from rlkv_engine.observe import FEATURES, NUM_FEATURES
from rlkv_envs.metrics import measure
from rlkv_envs.observation import action_space, observation_space
from rlkv_envs.scenario import Scenario, closed_loop
from tests.agents.small_scenario import random_weights, small_scenario

SCENARIOS = {
    "small": small_scenario(),
    "busy": small_scenario(rate_per_s=3.0, num_sessions=60),
    "tiny-host": small_scenario(num_host_blocks=40),
    "infercept": small_scenario(workload="infercept"),
    "closed": closed_loop(small_scenario(), 8),
}
#: Rules whose answers the three verbs can express.
START_RULES: list[Rule] = [
    House(),
    House(guard_pauses=2.0, swap_ratio=1e9),
    House(write_through=0.0, new_swaps=0.0, swap_ratio=0.0),
    LazySwap(1.0),
    make_rule("lru"),
    make_rule("preserve"),
]

NAMES = [feature.name for feature in FEATURES]


def zero_weights(hidden: int = 64) -> list[NDArray[np.float64]]:
    """Layers with numbers in them, under a last one that says nothing."""
    *body, weight, bias = random_weights(hidden=hidden)
    return [*body, np.zeros_like(weight), np.zeros_like(bias)]


def engine_of(scenario: Scenario, rule: Rule, seed: int = 0) -> Engine:
    table = scenario.table
    trace = scenario.trace(seed, "test")
    return Engine(
        scenario.profile, trace, rule.params(table), table=table,
        lease_s=rule.leases(scenario.profile, table),
    )  # fmt: skip


def effective(verb: int, point: int, swap_legal: bool) -> int:
    """What a verb amounts to: a SWAP without host room keeps at a CALL, else discards."""
    if verb != S.SWAP or swap_legal:
        return verb
    return int(S.PRESERVE if point == S.CALL else S.DISCARD)


@pytest.mark.parametrize("rule", START_RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_compiled_network_decides_as_the_rule_at_every_decision(name: str, rule: Rule) -> None:
    scenario = SCENARIOS[name]
    engine = engine_of(scenario, rule)
    policy = AgentPolicy("untrained", rule, zero_weights(), prior=1.5)
    compiled = policy.compiled()
    observations, verbs, masks = [], [], []
    while (decision := engine.next_decision()) is not None:
        compiled.observation[:] = engine.observe()
        verb = mlp_verb(compiled, decision.swap_legal)
        assert verb == effective(decision.rule_verb, decision.point, decision.swap_legal)
        observations.append(engine.observe())
        verbs.append(verb)
        masks.append(decision.swap_legal)
        engine.answer(verb)
    assert len(verbs) > 20
    # The same network in NumPy, all decisions at once.
    np.testing.assert_array_equal(
        greedy_verbs(policy, np.stack(observations), np.array(masks)), verbs
    )
    # And inside the engine's own loop, to the last bit of the outcome.
    trace = scenario.trace(0, "test")
    ours, theirs = (run_policy(scenario, p, trace) for p in (policy, AgentPolicy(rule.name, rule)))
    assert ours == theirs == measure(engine.state)


def decisions_of(scenario: Scenario, rule: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, masks and the rule's effective verbs along the rule's own run."""
    engine = engine_of(scenario, rule)
    observations, masks, verbs = [], [], []
    while (decision := engine.next_decision()) is not None:
        observations.append(engine.observe())
        masks.append([True, decision.swap_legal, True])
        verbs.append(effective(decision.rule_verb, decision.point, decision.swap_legal))
        engine.answer(decision.rule_verb)
    return np.stack(observations), np.array(masks), np.array(verbs)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_torch_policies_decide_as_the_rule(name: str) -> None:
    observations, masks, verbs = decisions_of(SCENARIOS[name], House(write_through=1.0))
    assert len(set(verbs.tolist())) > 1
    torch.manual_seed(0)
    start = RuleStartPolicy(observation_space(), action_space(), lambda _: 1e-3, prior=0.7)
    actions, _ = start.predict(observations, deterministic=True, action_masks=masks)
    np.testing.assert_array_equal(actions, verbs)
    net = Actor(NUM_FEATURES, 16, prior=1.5)
    with torch.no_grad():
        log_probability = net.log_probability(
            torch.as_tensor(observations), torch.as_tensor(masks)
        ).numpy()
    np.testing.assert_array_equal(log_probability.argmax(axis=1), verbs)
    # The prior leaves the others a share of the draws, the illegal ones none.
    probability = np.exp(log_probability)
    everything = masks.all(axis=1)
    expected = np.exp(1.5) / (np.exp(1.5) + 2)
    np.testing.assert_allclose(probability[everything].max(axis=1), expected, rtol=1e-5)
    assert (probability[~masks] == 0.0).all()


def test_both_recipes_have_the_same_actor() -> None:
    torch.manual_seed(2)
    start = RuleStartPolicy(observation_space(), action_space(), lambda _: 1e-3, prior=0.7)
    actor = start.action_net
    torch.nn.init.normal_(actor.head.weight)
    observations, masks, _ = decisions_of(SCENARIOS["busy"], House())
    with torch.no_grad():
        seen = torch.as_tensor(observations)
        ours = actor.log_probability(seen, torch.as_tensor(masks)).exp()
        distribution = start.get_distribution(seen, action_masks=masks)
        verbs = [torch.full((len(seen),), verb) for verb in range(3)]
        theirs = torch.stack([distribution.log_prob(verb).exp() for verb in verbs], dim=1)
    assert ours.std(dim=0).min() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    # All of it is trained, the critic apart from it.
    trained = {id(p) for group in start.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in start.parameters()} > {id(p) for p in actor.parameters()}
    torch.autograd.backward(start.predict_values(seen).sum())
    assert all(p.grad is None for p in actor.parameters())


def test_weights_go_from_torch_to_the_engine_unchanged() -> None:
    torch.manual_seed(1)
    start = RuleStartPolicy(observation_space(), action_space(), lambda _: 1e-3, prior=0.7)
    torch.nn.init.normal_(start.action_net.head.weight)
    policy = AgentPolicy("learned", House(), start.action_net.weights(), prior=0.7)
    observations, masks, verbs = decisions_of(SCENARIOS["small"], House())
    actions, _ = start.predict(observations, deterministic=True, action_masks=masks)
    np.testing.assert_array_equal(greedy_verbs(policy, observations, masks[:, 1]), actions)
    assert (actions != verbs).any()
    compiled = policy.compiled()
    for observation, mask, action in zip(observations, masks, actions, strict=True):
        compiled.observation[:] = observation
        assert mlp_verb(compiled, bool(mask[1])) == action


def test_a_fresh_learner_is_its_rule() -> None:
    scenario, rule = SCENARIOS["small"], House(guard_pauses=1.0)
    learner = ForkedLearner(scenario, rule, seed=3)
    fresh = AgentPolicy("fresh", rule, learner.weights(), learner.prior)
    for seed in range(3):
        trace = scenario.trace(seed, "test")
        ours, theirs = (run_policy(scenario, p, trace) for p in (fresh, AgentPolicy("rule", rule)))
        assert ours == theirs


def contrary() -> list[NDArray[np.float64]]:
    """A network that wants DISCARD, then SWAP, whatever it sees."""
    weights = zero_weights(4)
    weights[-1] = np.array([0.0, 50.0, 100.0])
    return weights


def observation_saying(verb: int) -> NDArray[np.float32]:
    observation = np.full(NUM_FEATURES, 0.5, np.float32)
    observation[-3:] = 0.0
    observation[NUM_FEATURES - 3 + verb] = 1.0
    return observation


@pytest.mark.parametrize("feature", [0, NAMES.index("context"), NUM_FEATURES - 4])
@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("rule", range(3))
def test_outside_the_trained_range_the_rule_answers(feature: int, side: int, rule: int) -> None:
    low, high = np.full(NUM_FEATURES, 0.0), np.full(NUM_FEATURES, 1.0)
    policy = make_policy(contrary(), 1.0, (low, high))
    policy.observation[:] = observation_saying(rule)
    assert mlp_verb(policy, True) == 2
    policy.observation[feature] = 0.5 + 0.6 * side
    assert mlp_verb(policy, True) == rule
    agent = AgentPolicy("x", House(), contrary(), 1.0, (low, high))
    verbs = greedy_verbs(agent, policy.observation[None], np.array([True]))
    np.testing.assert_array_equal(verbs, [rule])
    # On the edge the network still answers.
    policy.observation[feature] = 0.5 + 0.5 * side
    assert mlp_verb(policy, True) == 2


def test_without_a_range_the_network_answers_everywhere() -> None:
    policy = make_policy(contrary(), 1.0)
    policy.observation[:] = 1e9
    assert mlp_verb(policy, True) == 2


def test_an_illegal_swap_is_never_chosen() -> None:
    weights = contrary()
    weights[-1] = np.array([0.0, 100.0, 50.0])
    policy = make_policy(weights, 1.0)
    policy.observation[:] = observation_saying(0)
    assert (mlp_verb(policy, True), mlp_verb(policy, False)) == (1, 2)


def test_the_trained_range_covers_what_was_met_and_the_named_features_alone() -> None:
    rng = np.random.default_rng(0)
    met = rng.random((100, NUM_FEATURES))
    low, high = range_of(met.min(axis=0), met.max(axis=0))
    named = np.isin(NAMES, RANGE_FEATURES)
    assert named.sum() == len(RANGE_FEATURES)
    assert np.isneginf(low[~named]).all() and np.isposinf(high[~named]).all()
    assert (low[named] < met.min(axis=0)[named]).all()
    assert (high[named] > met.max(axis=0)[named]).all()
    assert (high[named] - low[named] < 1.2).all()


def test_on_a_machine_it_never_saw_a_policy_is_its_rule() -> None:
    scenario, rule = SCENARIOS["small"], House()
    observations, _, _ = decisions_of(scenario, rule)
    trained = range_of(
        observations.min(axis=0).astype(np.float64), observations.max(axis=0).astype(np.float64)
    )
    learned = AgentPolicy("learned", rule, contrary(), 1.0, trained)
    elsewhere = replace(scenario, profile=scenario.profile.scaled(link=20.0))
    changes = []
    for where in (scenario, elsewhere):
        trace = where.trace(0, "test")
        ours, theirs = (run_policy(where, p, trace) for p in (learned, AgentPolicy("rule", rule)))
        changes.append(ours != theirs)
    assert changes == [True, False]


def test_what_learnt_at_revisits_leaves_calls_to_the_rule() -> None:
    # Learners of the default recipes meet REVISITs only: the rule answers CALLs in training, and a
    # network that never saw one must not answer them either.
    observations, _, _ = decisions_of(SCENARIOS["small"], House())
    calls = observations[:, NAMES.index("point_call")] == 1.0
    assert calls.any() and not calls.all()
    met = observations[~calls].astype(np.float64)
    policy = make_policy(contrary(), 1.0, range_of(met.min(axis=0), met.max(axis=0)))
    answers = []
    for kind in (observations[calls], observations[~calls]):
        same = 0
        for row in kind:
            policy.observation[:] = row
            same += mlp_verb(policy, True) == int(row[-3:].argmax())
        answers.append(same / len(kind))
    assert answers[0] == 1.0 and answers[1] < 1.0
