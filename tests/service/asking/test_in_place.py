"""Decisions asked for from outside are those of the same policy inside the loop."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rlkv_agents.inference import greedy_verbs
from rlkv_agents.policy import AgentPolicy
from rlkv_agents.rules import make_rule
from rlkv_engine.engine import Engine
from rlkv_engine.facts import NUM_FACTS, POINT, RULE_VERB
from rlkv_engine.state import NUM_DECISIONS
from rlkv_envs.scenario import Scenario
from rlkv_service.asking.in_place import InPlaceAsking
from rlkv_service.asking.in_process import InProcessPolicy
from rlkv_service.asking.stepping import step_to_end
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.schema import Reason, Verb
from tests.agents.small_scenario import random_network, small_scenario
from tests.service.asking.engines import small_engine


def engine_of(scenario: Scenario, policy: AgentPolicy) -> Engine:
    policy, table = policy.on(scenario), policy.table(scenario)
    return Engine(
        scenario.profile,
        scenario.trace(0, "test"),
        policy.rule.params(table),
        table=table,
        lease_s=policy.rule.leases(scenario.profile, table),
    )


class Recorded:
    """An answerer that keeps what went through it."""

    def __init__(self, policy: AgentPolicy) -> None:
        self._answerer = InProcessPolicy(policy)
        self.asked: list[tuple[str, int, str]] = []
        self.facts: list[NDArray[np.float64]] = []
        self.verbs: list[int] = []

    def __call__(self, rows: DecisionRows) -> VerdictRows:
        verdicts = self._answerer(rows)
        self.asked += zip(rows.sessions, rows.turns.tolist(), rows.tools, strict=True)
        self.facts += list(rows.facts)
        self.verbs += verdicts.verb.tolist()
        return verdicts


def verbs_inside(engine: Engine, policy: AgentPolicy) -> list[int]:
    """The compiled policy's verbs, decision by decision."""
    verbs = []
    while (decision := engine.next_decision()) is not None:
        legal = np.array([decision.swap_legal])
        verbs.append(int(greedy_verbs(policy, engine.observe()[np.newaxis], legal)[0]))
        engine.answer(verbs[-1])
    return verbs


@pytest.mark.parametrize("num_host_blocks", [250, 8, 0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_decisions_as_in_process(num_host_blocks: int, seed: int) -> None:
    scenario = small_scenario(num_host_blocks=num_host_blocks)
    policy = random_network(seed)
    inside, outside = engine_of(scenario, policy), engine_of(scenario, policy)
    inside.run(policy.compiled())
    answerer = Recorded(policy)
    InPlaceAsking(answerer).run(outside)
    for name in ("slot", "real", "n", "latency"):
        np.testing.assert_array_equal(
            getattr(inside.state, name), getattr(outside.state, name), err_msg=name
        )
    assert inside.now_s == outside.now_s
    assert verbs_inside(engine_of(scenario, policy), policy) == answerer.verbs
    assert len(set(answerer.verbs)) > 1


@pytest.mark.parametrize("name", ["house", "swap", "preserve"])
def test_a_rule_asked_from_outside_is_that_rule(name: str) -> None:
    scenario, policy = small_scenario(), AgentPolicy(name, make_rule(name))
    inside, outside = engine_of(scenario, policy), engine_of(scenario, policy)
    inside.run(policy.compiled())
    asking = InPlaceAsking(InProcessPolicy(policy))
    asking.run(outside)
    assert inside.now_s == outside.now_s
    assert np.array_equal(inside.state.n, outside.state.n)
    assert sum(asking.reasons.values()) == outside.state.n[NUM_DECISIONS]


def test_rows_say_who_is_asked_about() -> None:
    scenario, policy = small_scenario(), random_network()
    answerer = Recorded(policy)
    engine = engine_of(scenario, policy)
    InPlaceAsking(answerer).run(engine)
    trace = engine.trace
    facts = np.array(answerer.facts)
    assert facts.shape == (len(answerer.asked), NUM_FACTS)
    assert set(facts[:, POINT]) == {0.0, 1.0, 2.0, 3.0}
    assert set(facts[:, RULE_VERB]) <= {0.0, 1.0, 2.0}
    calls = {asked for asked, row in zip(answerer.asked, facts, strict=True) if row[POINT] == 0}
    expected = {
        (trace.session_ids[sid], turn - trace.first_turn[sid], trace.tools[trace.tool[turn]])
        for sid in range(trace.num_sessions)
        for turn in range(trace.first_turn[sid], trace.first_turn[sid + 1] - 1)
    }
    assert calls == expected


def test_stepped_engines_ask_the_same() -> None:
    scenario, policy = small_scenario(), random_network()
    whole = Recorded(policy)
    InPlaceAsking(whole).run(engine_of(scenario, policy))
    stepped = Recorded(policy)
    engine = small_engine(scenario, policy)
    step_to_end(engine, InPlaceAsking(stepped))
    assert stepped.asked == whole.asked
    assert stepped.verbs == whole.verbs


def test_leases_hold_only_where_they_are_used() -> None:
    scenario, policy = small_scenario(), AgentPolicy("preserve", make_rule("preserve"))

    def brief(rows: DecisionRows) -> VerdictRows:
        verdicts = InProcessPolicy(policy)(rows)
        verdicts.lease_s[:] = 0.01
        return verdicts

    ends = {}
    for use_leases in (False, True):
        engine = engine_of(scenario, policy)
        asking = InPlaceAsking(brief, use_leases=use_leases)
        asking.run(engine)
        engine.check_integrity()
        ends[use_leases] = engine.now_s
    plain = engine_of(scenario, policy)
    plain.run(policy.compiled())
    assert ends[False] == plain.now_s != ends[True]


def test_reasons_are_counted() -> None:
    scenario, policy = small_scenario(), random_network()

    def silent(rows: DecisionRows) -> VerdictRows:
        verdicts = InProcessPolicy(policy)(rows)
        verdicts.reason[:] = Reason.DISCONNECTED
        verdicts.verb[:] = Verb.DISCARD
        return verdicts

    asking = InPlaceAsking(silent)
    engine = engine_of(scenario, policy)
    asking.run(engine)
    assert asking.reasons == {Reason.DISCONNECTED: engine.state.n[NUM_DECISIONS]}
