"""The rule that answers where nobody else does: NumPy alone, on the facts of a decision.

The verbs of ``rlkv_engine.rule.rule_verb`` for rules that look at a candidate by its expected
remaining pause, its place on the link and its requester: the house rule and what it contains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import facts as F
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.schema import Point, Reason, Verb

#: What stands for the policy's version where a local rule answered.
LOCAL_VERSION = "local-rule"


@dataclass(frozen=True, slots=True)
class LocalRule:
    """Constants of the house rule (docs/decisions/0003-the-house-rule.md).

    Args:
        guard_pauses: a new session may not take from one expected back within so many mean pauses.
        swap_ratio: for a returning or growing session a victim is copied out where its memory is
            free, all that is under way included, in less than so many times recomputing it.
        write_through: whether a CALL starts a copy to the host while the link idles.
        new_swaps: whether a new session's victims are copied out.
    """

    guard_pauses: float = 1.0
    swap_ratio: float = 4.0
    write_through: bool = False
    new_swaps: bool = True

    def verbs(self, facts: NDArray[np.float64]) -> NDArray[np.int8]:
        """The legal verb for each row of facts ``[n, NUM_FACTS]``, shape ``[n]``.

        A SWAP without host room keeps at a CALL and discards elsewhere. Without an expected
        remainder a pause is taken to last a mean pause, or as long again as it has lasted.
        """
        mean_s = mean_pause_s(facts)
        return self._verbs(facts, expected_remaining_s(facts, mean_s), mean_s)

    def _verbs(
        self,
        facts: NDArray[np.float64],
        remaining_s: NDArray[np.float64],
        mean_s: NDArray[np.float64],
    ) -> NDArray[np.int8]:
        point = facts[:, F.POINT]
        tokens = facts[:, F.CONTEXT_TOKENS]
        again_s = tokens * (
            facts[:, F.PREFILL_TOKEN_S] + facts[:, F.PREFILL_TOKEN_CONTEXT_S] * 0.5 * tokens
        )
        dirty = facts[:, F.DIRTY_BLOCKS]
        dirty = np.where(np.isnan(dirty), tokens / facts[:, F.BLOCK_SIZE], dirty)
        out_s = (facts[:, F.PENDING_BLOCKS] + dirty) * facts[:, F.SWAP_OUT_BLOCK_S]
        guarded = remaining_s < self.guard_pauses * mean_s
        at_call = Verb.SWAP if self.write_through else Verb.PRESERVE
        for_new = Verb.SWAP if self.new_swaps else Verb.DISCARD
        verb = np.where(out_s < self.swap_ratio * again_s, Verb.SWAP, Verb.DISCARD)
        verb = np.where(point == Point.NEW, np.where(guarded, Verb.PRESERVE, for_new), verb)
        verb = np.where(point == Point.CALL, at_call, verb)
        impossible = (verb == Verb.SWAP) & ~swap_is_legal(facts)
        instead = np.where(point == Point.CALL, Verb.PRESERVE, Verb.DISCARD)
        return np.where(impossible, instead, verb).astype(np.int8)

    def verdicts(self, rows: DecisionRows, reason: Reason) -> VerdictRows:
        """The rule's verdicts for rows that nobody else answered."""
        facts, num = rows.facts, len(rows)
        # Whoever asks with impossible facts has a verdict all the same.
        with np.errstate(all="ignore"):
            mean_s = mean_pause_s(facts)
            remaining_s = expected_remaining_s(facts, mean_s)
            verb = self._verbs(facts, remaining_s, mean_s)
            priority = soft_priority(remaining_s, mean_s)
            return_s = remaining_s.astype(np.float32)
            twice_s = np.float32(2.0) * return_s
            lease_s = np.where(verb == Verb.PRESERVE, twice_s, np.float32(0.0))
        return VerdictRows(
            LOCAL_VERSION,
            verb,
            lease_s,
            priority,
            return_s,
            twice_s,
            np.ones(num, np.float32),
            np.ones(num, np.int8),
            np.full(num, reason, np.int8),
            verb,
        )


def mean_pause_s(facts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The workload's mean pause, one second where nobody knows it, shape ``[n]``."""
    known = facts[:, F.MEAN_PAUSE_S]
    return np.where(np.isnan(known), 1.0, known)


def expected_remaining_s(
    facts: NDArray[np.float64], mean_s: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Expected remaining pauses, shape ``[n]``.

    Of those unknown, as long again as the pause has lasted, at least a mean pause (``mean_s``,
    where the caller has it already).
    """
    known = facts[:, F.REMAINING_S]
    guess = np.fmax(facts[:, F.ELAPSED_S], mean_pause_s(facts) if mean_s is None else mean_s)
    return np.where(np.isnan(known), guess, known)


def swap_is_legal(facts: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether the host has room, shape ``[n]``; by its free blocks where the engine is silent."""
    said = facts[:, F.SWAP_IS_LEGAL]
    at_call = facts[:, F.POINT] == Point.CALL
    dirty = np.where(np.isnan(facts[:, F.DIRTY_BLOCKS]), 1.0, facts[:, F.DIRTY_BLOCKS])
    need = np.where(at_call, 1.0, np.minimum(dirty, np.maximum(facts[:, F.SHORT_BLOCKS], 1.0)))
    guess = (facts[:, F.NUM_HOST_BLOCKS] > 0) & (facts[:, F.HOST_FREE_BLOCKS] >= need)
    return np.where(np.isnan(said), guess, said == 1.0)


def soft_priority(
    remaining_s: NDArray[np.floating], unit_s: NDArray[np.float64]
) -> NDArray[np.int8]:
    """0 (take first) to 100, by expected remaining pause in mean pauses, shape ``[n]``."""
    return np.round(100.0 * unit_s / (unit_s + remaining_s)).astype(np.int8)
