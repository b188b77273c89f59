"""Verdicts of a bundle for rows of decisions, whoever asks and whatever is not known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import facts as F
from rlkv_engine.observe import NUM_FEATURES
from rlkv_engine.victim_order import weighed_rows_s
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.deciding.active_bundle import ActiveBundle, PolicyInfo
from rlkv_service.deciding.advised_rules import AdvisedRules
from rlkv_service.deciding.compiled_rows import fill_unknown, is_one_machine, judge, look
from rlkv_service.pause_estimates import PauseEstimates


class Asked(NamedTuple):
    """Decisions of one engine."""

    engine_id: str
    rows: DecisionRows


class Decider:
    """Decides with a bundle, which may be replaced meanwhile. For several threads.

    Args:
        bundle: the first one.
        estimates: of pauses; without, simple guesses (``unknown_facts``).
        shadow: the policy is heard and told of, and the rule decides.
        min_confidence: the policy leaves the rule only where its confidence is at least this; on
            top of the threshold that the bundle has of its own.
    """

    def __init__(
        self,
        bundle: ActiveBundle,
        estimates: PauseEstimates | None = None,
        *,
        shadow: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        self._estimates, self._shadow, self._min_confidence = estimates, shadow, min_confidence
        self.use(bundle)

    def use(self, bundle: ActiveBundle) -> None:
        """Decides with another bundle from the next batch on."""
        # One assignment: a batch has the one or the other, with the rules that belong to it.
        self._active = (bundle, AdvisedRules(bundle.policy, self._estimates))

    @property
    def bundle(self) -> ActiveBundle:
        """The bundle in use."""
        return self._active[0]

    @property
    def info(self) -> PolicyInfo:
        """The bundle in use, and how it decides."""
        bundle = self.bundle
        return PolicyInfo(
            bundle.policy.name,
            bundle.version,
            bundle.loaded_s,
            self._shadow,
            self._min_confidence,
            bundle.metadata,
        )

    def decide(self, engine_id: str, rows: DecisionRows) -> VerdictRows:
        """Verdicts for the rows of one engine."""
        return self.decide_many([Asked(engine_id, rows)])[0]

    def decide_many(self, asked: Sequence[Asked]) -> list[VerdictRows]:
        """Verdicts for several requests, all from one bundle, in their order."""
        # Facts that may be sent can still be beyond all reason; what follows from them is a verb.
        with np.errstate(all="ignore"):
            return self._decide(asked, *self._active)

    def _decide(
        self, asked: Sequence[Asked], bundle: ActiveBundle, rules: AdvisedRules
    ) -> list[VerdictRows]:
        # Requests of an engine side by side: what is asked of estimates is asked once for each.
        order = sorted(range(len(asked)), key=lambda i: asked[i].engine_id)
        batch = _Batch([asked[i] for i in order], self._estimates, rules)
        num = len(batch.facts)
        small, real = np.empty((6, num), np.int8), np.empty((4, num), np.float32)
        policy, confidence = small[5], np.empty(num)
        knows, unsure = np.empty((2, num), np.bool_)
        if batch.may_depart:
            _hear(bundle, batch, policy, confidence, knows, unsure)
        judge(
            batch.facts, batch.order_s, policy, confidence, knows, unsure, batch.departs,
            batch.left_s, self._shadow, self._min_confidence, small, real,
        )  # fmt: skip
        verdicts: list[VerdictRows] = [None] * len(asked)  # type: ignore[list-item]
        start = 0
        for i in order:
            part = slice(start, start + len(asked[i].rows))
            start = part.stop
            verb, priority, by_rule, reason, rule, said = small[:, part]
            verdicts[i] = VerdictRows(
                bundle.version, verb, real[0, part], priority, real[1, part], real[2, part],
                real[3, part], by_rule, reason, rule, said,
            )  # fmt: skip
        return verdicts


def _hear(
    bundle: ActiveBundle,
    batch: _Batch,
    policy: NDArray[np.int8],
    confidence: NDArray[np.float64],
    knows: NDArray[np.bool_],
    unsure: NDArray[np.bool_],
) -> None:
    """Asks the policy about those rows on which it may be heard; of the others it says nothing.

    ``batch.departs`` says on which machines it may, ``knows`` (out) where it knows such facts.
    """
    num = len(batch.facts)
    observations, swap_legal = np.empty((num, NUM_FEATURES), np.float32), np.empty(num, np.bool_)
    heard = np.empty(num, np.int64)
    num_heard, largest = look(
        batch.facts, batch.departs, bundle.low, bundle.high, observations, swap_legal, knows, heard
    )
    if num_heard:
        rows = heard[:num_heard]
        policy[rows], confidence[rows], unsure[rows] = bundle.answer(
            observations[:num_heard], swap_legal[:num_heard], largest
        )


class _Batch:
    """Rows of several requests, those of an engine side by side, what is unknown filled in."""

    def __init__(
        self, asked: Sequence[Asked], estimates: PauseEstimates | None, rules: AdvisedRules
    ) -> None:
        if len(asked) == 1:
            self.facts = asked[0].rows.facts.copy()
        else:
            self.facts = np.concatenate([each.rows.facts for each in asked])
        num = len(self.facts)
        self.left_s = np.empty((2, num))  # p50 and p90 of what is left of the pauses
        #: Places in the order of victims, the largest first, seconds.
        self.order_s = np.empty(num)
        self.departs = np.empty(num, np.bool_)
        self.may_depart = False  # whether any row does
        start = 0
        for engine_id, group in groupby(asked, key=_engine_of):
            mine = [each.rows for each in group]
            part = slice(start, start + sum(map(len, mine)))
            start = part.stop
            facts, departs, left_s = self.facts[part], self.departs[part], self.left_s[:, part]
            order_s = self.order_s[part]
            silent = _fill(engine_id, mine, facts, left_s, estimates)
            for rows in _same_machines(facts):
                advised = rules.on(engine_id, facts[rows][0])
                departs[rows] = advised.departs
                order_s[rows] = _order_s(facts[rows], advised.order)
                self.may_depart = self.may_depart or advised.departs
                if silent:
                    said = facts[rows, F.RULE_VERB]
                    facts[rows, F.RULE_VERB] = np.where(
                        np.isnan(said), advised.rule.verbs(facts[rows]), said
                    )


def _order_s(
    facts: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    remaining_s = facts[:, F.REMAINING_S]
    if weights is None:
        return remaining_s
    order_s = np.empty(len(facts))
    weighed_rows_s(facts, remaining_s, weights, order_s)
    return order_s


def _engine_of(asked: Asked) -> str:
    return asked.engine_id


def _fill(
    engine_id: str,
    mine: Sequence[DecisionRows],
    facts: NDArray[np.float64],
    left_s: NDArray[np.float64],
    estimates: PauseEstimates | None,
) -> int:
    """Fills what is unknown in the facts of an engine; how many rows lack the rule's verb."""
    if estimates is None:
        left_s[:] = np.nan
        return fill_unknown(facts, np.nan, left_s[0])
    if len(mine) == 1:
        sessions, tools = mine[0].sessions, mine[0].tools
    else:
        sessions = [session for rows in mine for session in rows.sessions]
        tools = [tool for rows in mine for tool in rows.tools]
    left = estimates.remaining(engine_id, sessions, tools, facts[:, F.ELAPSED_S])
    left_s[0], left_s[1] = left.p50_s, left.p90_s
    return fill_unknown(facts, estimates.mean_pause_s(engine_id), left.mean_s)


def _same_machines(facts: NDArray[np.float64]) -> list[slice | NDArray[np.int64]]:
    """The rows of each machine."""
    if is_one_machine(facts):
        return [slice(None)]
    _, group = np.unique(facts[:, : F.MEAN_PAUSE_S], axis=0, return_inverse=True)
    return [np.flatnonzero(group.ravel() == each) for each in range(group.max() + 1)]
