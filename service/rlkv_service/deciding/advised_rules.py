"""The rule under a bundle on the machine of whoever asks, and if the bundle leaves it there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.advice import DESCRIPTION, Advice
from rlkv_agents.base_rule import Rule
from rlkv_agents.house_rule import House
from rlkv_agents.policy import AgentPolicy
from rlkv_engine import facts as F
from rlkv_engine import rule as R
from rlkv_engine.estimates import NUM_BINS, PauseTable
from rlkv_engine.state import DISCARD, PRESERVE, SWAP, SWAP_NOW
from rlkv_service.local_rule import LocalRule
from rlkv_service.pause_estimates import PauseEstimates

#: What is known of pauses changes slowly: advice is taken again after so many seconds.
REFRESH_S = 5.0
#: Engines and machines that are remembered; names come from outside.
MAX_REMEMBERED = 1024

_SKEW = DESCRIPTION.index("pause_skew")
#: Octaves of mean over median pause where nobody says: an exponential's.
_DEFAULT_SKEW = 0.53
#: Facts that tell machines apart.
_MACHINE = [
    F.BLOCK_SIZE, F.NUM_DEVICE_BLOCKS, F.NUM_HOST_BLOCKS, F.PREFILL_TOKEN_S,
    F.PREFILL_TOKEN_CONTEXT_S, F.SWAP_OUT_BLOCK_S, F.SWAP_IN_BLOCK_S,
]  # fmt: skip
#: A link that takes no time does not exist; logs are taken of it.
_LEAST_COPY_S = 1e-12


class Advised(NamedTuple):
    """What holds for a machine."""

    rule: LocalRule
    #: Weights of the order in which sessions give up their blocks, [NUM_ORDER_TERMS]; None: by
    #: expected remaining pause.
    order: NDArray[np.float64] | None
    departs: bool  #: whether the bundle leaves the rule there


@dataclass(frozen=True, slots=True)
class _Machine:
    """A machine as an ``advice.Machine``, from the facts of a decision."""

    block_size: int
    num_device_blocks: int
    num_host_blocks: int
    prefill_token_s: float
    prefill_token_context_s: float
    swap_out_block_s: float
    swap_in_block_s: float


class AdvisedRules:
    """Remembers what a policy advises, by engine and machine. For several threads.

    Args:
        policy: of a bundle.
        estimates: of pauses, if there are any.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        policy: AgentPolicy,
        estimates: PauseEstimates | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy, self._estimates, self._clock = policy, estimates, clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, bytes], tuple[float, Advised]] = {}

    def on(self, engine_id: str, facts: NDArray[np.float64]) -> Advised:
        """What holds for an engine, by one row of its facts, shape ``[NUM_FACTS]``."""
        key = (engine_id, facts[: F.MEAN_PAUSE_S].tobytes())
        now_s = self._clock()
        with self._lock:
            taken_s, advised = self._known.get(key, (-np.inf, None))
            if advised is not None and now_s - taken_s < REFRESH_S:
                return advised
        advised = self._advise(engine_id, facts)
        with self._lock:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[key] = (now_s, advised)
        return advised

    def _advise(self, engine_id: str, facts: NDArray[np.float64]) -> Advised:
        table = None if self._estimates is None else self._estimates.table(engine_id)
        advice = self._policy.advice
        if table is None:
            table = _supposed_table(float(facts[F.MEAN_PAUSE_S]), advice)
        if advice is None:
            return _advised(self._policy.rule, table, departs=True)
        block_size, device, host, *costs = facts[_MACHINE]  # of NumPy: they divide by 0
        costs[2:] = (max(cost, _LEAST_COPY_S) for cost in costs[2:])
        # Whole numbers without a bound: floats as they come.
        machine = _Machine(block_size, device, host, *costs)
        rule = advice.rule_for(machine, table)
        return _advised(rule, table, advice.may_depart(machine, table))


def _advised(rule: Rule, table: PauseTable, departs: bool) -> Advised:
    order = rule.order if isinstance(rule, House) and rule.has_order else None
    return Advised(local_rule(rule, table), order, departs)


def local_rule(rule: Rule, table: PauseTable) -> LocalRule:
    """A rule by the numbers of its compiled form, as far as ``LocalRule`` can tell it.

    Exact for the house rule and what it contains; another one keeps its verbs for new and
    returning sessions.
    """
    params = rule.params(table)
    guard_pauses = params[R.GUARD_S] / table.mean_pause_s
    swap_ratio = {SWAP: np.inf, DISCARD: 0.0}.get(
        int(params[R.RESUME_VERB]), float(params[R.SWAP_RATIO])
    )
    return LocalRule(
        float("inf") if params[R.NEW_VERB] == PRESERVE else float(guard_pauses),
        float(swap_ratio),
        params[R.CALL_VERB] in (SWAP, SWAP_NOW),
        params[R.NEW_VERB] == SWAP,
    )


def _supposed_table(mean_pause_s: float, advice: Advice | None) -> PauseTable:
    # Skewed as the pauses of the machines that the advice knows.
    skew = _DEFAULT_SKEW if advice is None else float(np.median(advice.machines[:, _SKEW]))
    return PauseTable(
        (),
        np.full((1, NUM_BINS), mean_pause_s),
        np.array([mean_pause_s]),
        np.full((1, 101), mean_pause_s / 2.0**skew),
    )
