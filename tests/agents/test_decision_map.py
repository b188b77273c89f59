from __future__ import annotations

import numpy as np
import pytest

from rlkv_agents.decision_map import decision_map
from rlkv_agents.inference import greedy_verbs
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.observe import FEATURES, NUM_FEATURES
from rlkv_envs.scenario import Scenario, load_scenario

GUARD_PAUSES = 0.5
NAMES = [feature.name for feature in FEATURES]


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    busy = load_scenario("crossover-slow").with_sessions(150)
    return busy.at_rate(2.0 * busy.rate_per_s)


def network(prior: float, scale: float = 0.0) -> AgentPolicy:
    rng = np.random.default_rng(0)
    shapes = ((8, NUM_FEATURES), (8,), (8, 8), (8,), (3, 8), (3,))
    weights = [scale * rng.normal(size=shape) for shape in shapes]
    rule = make_rule("lazy-swap", {"guard_pauses": GUARD_PAUSES})
    return AgentPolicy("network", rule, weights, prior)


def test_the_map_of_a_guarded_rule_turns_at_its_guard(scenario: Scenario) -> None:
    policy = AgentPolicy("lazy-swap", make_rule("lazy-swap", {"guard_pauses": GUARD_PAUSES}))
    drawn = decision_map(scenario, policy, S.NEW)
    assert drawn is not None
    verb = np.array(drawn["verb"])
    remaining_s = np.array(drawn["remaining_s"])
    assert verb.shape == (len(drawn["context_ratio"]), len(remaining_s))
    kept = remaining_s < GUARD_PAUSES * scenario.table.mean_pause_s
    assert kept.any() and not kept.all()
    np.testing.assert_array_equal(verb == S.PRESERVE, np.broadcast_to(kept, verb.shape))
    assert len(drawn["met"]) > 0
    # A returning session is served whatever the guard says.
    returning = decision_map(scenario, policy, S.RESUME)
    assert returning is not None
    assert not (np.array(returning["verb"]) == S.PRESERVE).any()


def test_zero_weights_draw_the_map_of_the_rule(scenario: Scenario) -> None:
    learned = network(prior=2.0)
    rule = AgentPolicy("rule", learned.rule)
    assert decision_map(scenario, learned, S.NEW) == decision_map(scenario, rule, S.NEW)


def test_a_network_that_wants_one_verb_gets_it(scenario: Scenario) -> None:
    learned = network(prior=0.0)
    assert learned.weights is not None
    learned.weights[5][int(S.DISCARD)] = 1.0
    drawn = decision_map(scenario, learned, S.NEW)
    assert drawn is not None and set(np.ravel(drawn["verb"])) == {int(S.DISCARD)}


def test_greedy_verbs_are_those_of_the_compiled_loop(scenario: Scenario) -> None:
    learned = network(prior=1.0, scale=0.5)
    trace = scenario.trace(0, "validation")
    params = learned.rule.params(scenario.table)
    engine = Engine(scenario.profile, trace, params, table=scenario.table, keep_outcome=True)
    asked = 0
    while (decision := engine.next_decision()) is not None:
        legal = np.array([decision.swap_legal])
        engine.answer(int(greedy_verbs(learned, engine.observe()[None], legal)[0]))
        asked += 1
    assert asked > 100
    compiled = Engine(scenario.profile, trace, params, table=scenario.table, keep_outcome=True)
    compiled.run(learned.compiled())
    np.testing.assert_array_equal(
        engine.state.outcome[S.FINISH_S], compiled.state.outcome[S.FINISH_S]
    )


def test_no_map_where_nothing_is_asked() -> None:
    idle = load_scenario("crossover-slow").with_sessions(5)
    policy = AgentPolicy("lru", make_rule("lru"))
    assert decision_map(idle.at_rate(0.01), policy, S.NEW, seeds=(0,)) is None
