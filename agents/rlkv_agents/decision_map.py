"""What a policy answers over expected remaining pause and context, all else as it really was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.inference import greedy_verbs
from rlkv_agents.policy import AgentPolicy
from rlkv_engine import state as S
from rlkv_engine.engine import Decision, Engine
from rlkv_engine.estimates import GRID_S, PauseTable
from rlkv_engine.observe import FEATURES
from rlkv_envs.scenario import Scenario

#: A decision point, as ``state`` names them.
Point = int | np.integer[Any]

NUM_REMAINING, NUM_CONTEXTS = 48, 32
#: Decisions that were really met, shown as points in the map.
MAX_MET = 300
#: Decisions looked at to find the typical one.
MAX_DECISIONS = 1000
#: The validation traces on which decisions are looked for, in order, until one has any.
SEEDS = range(4)
#: The row of the pause table that only the candidate of the map uses.
PROBE = "decision map"

_REMAINING = [feature.name for feature in FEATURES].index("remaining_pauses")
_CONTEXT = [feature.name for feature in FEATURES].index("context")


def decision_map(
    scenario: Scenario, policy: AgentPolicy, point: Point, seeds: Sequence[int] = SEEDS
) -> dict[str, Any] | None:
    """The greedy verb of a policy at one kind of decision point, over a grid.

    The state is one that the policy's rule really met on a validation trace: of all decisions of
    that kind the one whose observation is nearest to the feature-wise median. There the candidate's
    expected remaining pause and its context are replaced by those of the grid, which is the same
    for every policy of a scenario; every feature and the rule's own verb then come from the engine
    itself, so that they agree with each other.

    Args:
        scenario: machine, sessions and load.
        policy: a rule, or a network that starts at one.
        point: ``state.NEW`` or ``state.RESUME``.
        seeds: validation traces on which the decisions are looked for, the first that has any.

    Returns:
        ``remaining_s`` (ascending, logarithmic), ``context_ratio`` (of the device pool), ``verb``
        (a row for each context; 0 preserve, 1 swap, 2 discard), ``met``: pairs of remaining seconds
        and context ratio of decisions that were met. None if no such decision was met.
    """
    for seed in seeds:
        engine = _engine(scenario, policy, seed)
        met = np.array([engine.observe() for _ in _decisions(engine, point)])
        if met.size:
            break
    else:
        return None
    typical = _nearest_to_median(met)
    engine = _engine(scenario, policy, seed)
    for i, _ in enumerate(_decisions(engine, point)):
        if i == typical:
            break
    share = np.clip(met[:, _REMAINING].astype(float), 0.0, 1.0 - 1e-6)
    remaining_met_s = share / (1.0 - share) * scenario.table.mean_pause_s
    context_met = met[:, _CONTEXT].astype(float)
    remaining_s, context_ratio = _remaining_grid_s(scenario.table), _context_grid(scenario)
    shown = np.linspace(0, len(met) - 1, min(len(met), MAX_MET)).astype(int)
    return {
        "remaining_s": remaining_s.tolist(),
        "context_ratio": context_ratio.tolist(),
        "verb": _verbs(engine, policy, remaining_s, context_ratio).tolist(),
        "met": [[float(remaining_met_s[i]), float(context_met[i])] for i in shown],
    }


def _engine(scenario: Scenario, policy: AgentPolicy, seed: int) -> Engine:
    # One more row, so that the candidate's estimate can be set alone.
    policy, known = policy.on(scenario), policy.table(scenario)
    table = replace(
        known,
        tools=(*known.tools, PROBE),
        residual_s=np.insert(known.residual_s, -1, known.residual_s[-1], axis=0),
        mean_s=np.insert(known.mean_s, -1, known.mean_s[-1]),
        quantiles_s=np.insert(known.quantiles_s, -1, known.quantiles_s[-1], axis=0),
    )
    trace = scenario.trace(seed, "validation")
    return Engine(
        scenario.profile,
        replace(trace, tools=(*trace.tools, PROBE)),
        policy.rule.params(table),
        table=table,
        lease_s=policy.rule.leases(scenario.profile, table),
    )


def _decisions(engine: Engine, point: Point) -> Iterator[Decision]:
    # Stops at each decision of a kind; the rule answers all of them.
    count = 0
    while count < MAX_DECISIONS and (decision := engine.next_decision()) is not None:
        if decision.point == point:
            count += 1
            yield decision
        engine.answer(decision.rule_verb)


def _nearest_to_median(observations: NDArray[np.float32]) -> int:
    spread = observations.std(axis=0) + 1e-6
    away = (observations - np.median(observations, axis=0)) / spread
    return int(np.argmin((away**2).sum(axis=1)))


def _remaining_grid_s(table: PauseTable) -> NDArray[np.float64]:
    # Whatever the table can say of a pause that has not outlasted nearly all of its tool.
    reachable = GRID_S[None, :] <= table.quantiles_s[:, 98:99]
    said_s = table.residual_s[reachable]
    return np.geomspace(0.7 * said_s.min(), 1.4 * said_s.max(), NUM_REMAINING)


def _context_grid(scenario: Scenario) -> NDArray[np.float64]:
    # The contexts that calls have, the same for every policy.
    trace = scenario.trace(SEEDS[0], "validation")
    called = trace.tool >= 0
    tokens = (trace.input_tokens + trace.output_tokens)[called if called.any() else ~called]
    low, high = np.percentile(tokens, [1, 99]) / scenario.profile.device_tokens
    return np.linspace(0.9 * low, min(1.0, 1.1 * high), NUM_CONTEXTS)


def _verbs(
    engine: Engine,
    policy: AgentPolicy,
    remaining_s: NDArray[np.float64],
    context_ratio: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Verbs at the engine's open decision, shape ``[num_contexts, num_remaining]``.

    Writes into the engine's arrays and those of its trace, which nothing else uses.
    """
    st = engine.state
    s = int(st.n[S.DECISION_SLOT])
    fields = [S.VALID, S.COMPUTED, S.KEEP, S.DEV, S.HOST_LO, S.HOST_HI]
    base, take = st.slot[fields, s].astype(np.float64), int(st.n[S.DECISION_TAKE])
    probe = len(st.residual_s) - 2
    st.turns[S.TOOL, st.slot[S.TURN, s]] = probe
    observations, legal = [], []
    for context in context_ratio:
        tokens = context * float(st.n[S.NUM_DEVICE] * st.n[S.BLOCK_SIZE])
        scaled = np.rint(base * (tokens / base[0]))
        st.slot[fields, s] = np.where(base > 0, np.maximum(scaled, 1), 0)
        st.n[S.DECISION_TAKE] = min(take, int(st.slot[S.KEEP, s]))
        for remaining in remaining_s:
            st.residual_s[probe] = remaining
            st.real[S.RETURN_AT, s] = engine.now_s + remaining
            decision = engine.next_decision()
            if decision is None:
                raise RuntimeError("the decision of the map is no longer open")
            observations.append(engine.observe())
            legal.append(decision.swap_legal)
    verbs = greedy_verbs(policy, np.array(observations), np.array(legal))
    return verbs.reshape(len(context_ratio), len(remaining_s))
