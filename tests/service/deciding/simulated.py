"""Decisions of simulated runs: their facts, and what the compiled policy answers in the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.policy import AgentPolicy
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.facts import FACTS, NUM_FACTS
from rlkv_engine.jit import jit
from rlkv_engine.loop import policy_verb
from rlkv_envs.scenario import Scenario
from rlkv_service.columns import DecisionRows


@jit
def _policy_verb(stack: S.State, policy: Any) -> int:
    return policy_verb(S.engine_view(stack, 0), policy)


def simulated(
    scenario: Scenario, policy: AgentPolicy, num_seeds: int = 2
) -> tuple[DecisionRows, NDArray[np.int64]]:
    """Decisions that a policy met, and its verbs."""
    bound, table = policy.on(scenario), policy.table(scenario)
    compiled = bound.compiled()
    facts, verbs, tools = [], [], []
    for seed in range(num_seeds):
        trace = scenario.trace(seed, "test")
        engine = Engine(scenario.profile, trace, bound.rule.params(table), table=table)
        while (decision := engine.next_decision()) is not None:
            verb = _policy_verb(engine._stack, compiled)
            engine.observe()
            facts.append(engine._stack.f[0, S.FACTS : S.FACTS + NUM_FACTS].copy())
            verbs.append(min(verb, 1) if verb == S.SWAP_NOW else verb)
            turn = trace.first_turn[decision.sid] + decision.turn
            tools.append(trace.tools[trace.tool[turn]])
            engine.answer(verb)
    names = [str(row) for row in range(len(facts))]
    rows = DecisionRows(names, np.zeros(len(facts), np.int64), tools, np.array(facts))
    return rows, np.array(verbs)


def without(rows: DecisionRows, *names: str) -> DecisionRows:
    """The same decisions of an engine that does not know some facts."""
    facts = rows.facts.copy()
    for i, fact in enumerate(FACTS):
        if fact.name in names:
            facts[:, i] = np.nan
    return DecisionRows(rows.sessions, rows.turns, rows.tools, facts)
