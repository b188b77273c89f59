"""Each decision is asked for when it is open, and the engine waits: simulations and comparisons.

The rows go one at a time, in the order in which the compiled loop would ask its own policy, so that
a bundle somewhere else gives the decisions of the same bundle in process.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.policy import AgentPolicy
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Decision, Engine
from rlkv_engine.state import SWAP, SWAP_NOW
from rlkv_engine.stepped import SteppedEngine
from rlkv_engine.trace import Trace
from rlkv_envs.metrics import RunResult, measure
from rlkv_envs.scenario import Scenario
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.schema import Reason, Verb

#: Answers rows: a client's ``decide``, or a decider in this process.
Answerer = Callable[[DecisionRows], VerdictRows]


class InPlaceAsking:
    """Asks about every decision of an engine as it comes; also a ``planner.MemoryPlanner``.

    Args:
        answerer: whom to ask.
        use_leases: whether a PRESERVE at a CALL holds no longer than the verdict's lease. Without,
            as for a policy in process, it holds until memory is short: this engine asks again then.
    """

    def __init__(self, answerer: Answerer, *, use_leases: bool = False) -> None:
        self._answerer, self._use_leases = answerer, use_leases
        #: Decisions by the verdict's reason.
        self.reasons: Counter[Reason] = Counter()
        #: Version of the policy that answered last.
        self.policy_version = ""
        self._verbs: dict[int, int] = {}  # by slot, the latest

    def run(self, engine: Engine) -> None:
        """To the end of the engine's last session."""
        while (decision := engine.next_decision()) is not None:
            self._decide(engine, decision)

    def plan_memory(self, engine: SteppedEngine) -> None:
        """One iteration's events, growth and admissions."""
        engine.begin_plan()
        while (decision := engine.plan_to_decision()) is not None:
            self._decide(engine, decision)

    def verbs_of(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """What was last decided about each slot; -1 of nothing."""
        return np.array([self._verbs.get(slot, -1) for slot in slots.tolist()], np.int64)

    def _decide(self, engine: Engine, decision: Decision) -> None:
        names = engine.names_of(np.array([engine.open_slot]))
        rows = DecisionRows(names.sessions, names.turns, names.tools, engine.facts()[np.newaxis])
        verdicts = self._answerer(rows)
        verb = int(verdicts.verb[0])
        lease_s = math.inf
        if self._use_leases and verb == Verb.PRESERVE:
            lease_s = float(verdicts.lease_s[0])
        if verb == SWAP and decision.rule_verb == SWAP_NOW:
            # Whoever answers has one SWAP; on a rule that swaps at once it means the rule's.
            verb = int(SWAP_NOW)
        engine.answer(verb, lease_s)
        self._verbs[engine.open_slot] = verb
        self.reasons[Reason(int(verdicts.reason[0]))] += 1
        self.policy_version = verdicts.policy_version


def run_asked(
    scenario: Scenario,
    policy: AgentPolicy,
    trace: Trace,
    asking: InPlaceAsking,
    config: EngineConfig | None = None,
) -> RunResult:
    """Like ``evaluate.run_policy``: a trace to its end, its decisions asked for in place."""
    policy, table = policy.on(scenario), policy.table(scenario)
    engine = Engine(
        scenario.profile,
        trace,
        policy.rule.params(table),
        table=table,
        config=config,
        lease_s=policy.rule.leases(scenario.profile, table),
    )
    asking.run(engine)
    return measure(engine.state)
