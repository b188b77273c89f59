"""Decisions of simulated runs: their facts, and what the compiled policy answers in the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.bundle import Bundle
from rlkv_agents.policy import AgentPolicy
from rlkv_engine import facts as F
from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.jit import jit
from rlkv_engine.loop import policy_verb
from rlkv_envs.scenario import Scenario
from rlkv_service.columns import DecisionRows
from rlkv_service.deciding.active_bundle import ActiveBundle

INDEX = {fact.name: i for i, fact in enumerate(F.FACTS)}


@jit
def _policy_verb(stack: S.State, policy: Any) -> int:
    return policy_verb(S.engine_view(stack, 0), policy)


def simulated(
    scenario: Scenario, policy: AgentPolicy, num_seeds: int = 2, num: int = 4000
) -> tuple[DecisionRows, NDArray[np.int64]]:
    """Decisions that a policy meets, at most ``num``, and its legal verbs."""
    bound, table = policy.on(scenario), policy.table(scenario)
    compiled = bound.compiled()
    facts: list[NDArray[np.float64]] = []
    verbs: list[int] = []
    tools: list[str] = []
    for seed in range(num_seeds):
        trace = scenario.trace(seed, "test")
        engine = Engine(scenario.profile, trace, bound.rule.params(table), table=table)
        while (decision := engine.next_decision()) is not None and len(facts) < num:
            verb = _policy_verb(engine._stack, compiled)
            engine.observe()
            facts.append(engine._stack.f[0, S.FACTS : S.FACTS + F.NUM_FACTS].copy())
            # As the engine takes a SWAP without host room.
            if verb == S.SWAP and not decision.swap_legal:
                verb = S.PRESERVE if decision.point == S.CALL else S.DISCARD
            verbs.append(S.SWAP if verb == S.SWAP_NOW else verb)
            turn = trace.first_turn[decision.sid] + decision.turn
            tools.append(trace.tools[trace.tool[turn]])
            engine.answer(verb)
    names = [str(row) for row in range(len(facts))]
    rows = DecisionRows(names, np.zeros(len(facts), np.int64), tools, np.array(facts))
    return rows, np.array(verbs)


def with_facts(rows: DecisionRows, **values: float) -> DecisionRows:
    """The same decisions with other facts."""
    facts = rows.facts.copy()
    for name, value in values.items():
        facts[:, INDEX[name]] = value
    return replace(rows, facts=facts)


def part_of(rows: DecisionRows, start: int, stop: int) -> DecisionRows:
    """Some of the rows."""
    return DecisionRows(
        rows.sessions[start:stop],
        rows.turns[start:stop],
        rows.tools[start:stop],
        rows.facts[start:stop].copy(),
    )


def active(policy: AgentPolicy, **metadata: Any) -> ActiveBundle:
    """A policy in use that was never in a file."""
    return ActiveBundle(Bundle(policy, {"weights_sha256": "0" * 64, **metadata}))
