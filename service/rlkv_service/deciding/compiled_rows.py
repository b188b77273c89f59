"""Rows of facts on their way to verdicts, compiled: what NumPy would need many passes for.

What stands for an unknown fact is what ``local_rule`` supposes too, which has to do without numba.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import facts as F
from rlkv_engine.jit import jit
from rlkv_engine.observe import candidate_features, offer_features
from rlkv_engine.state import CALL, DISCARD, PRESERVE, SWAP
from rlkv_service.schema import Reason

F4 = NDArray[np.float32]
F8 = NDArray[np.float64]
I1 = NDArray[np.int8]
I8 = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Numbers that the compiler sees.
_POLICY, _UNSURE, _OUTSIDE = int(Reason.POLICY), int(Reason.UNSURE), int(Reason.OUTSIDE)
_NO_POLICY, _SHADOW = int(Reason.NO_POLICY), int(Reason.SHADOW)
#: The verb of a row that float32 does not settle.
UNCLEAR = -1


@jit
def fill_unknown(facts: F8, estimated_mean_pause_s: float, estimated_remaining_s: F8) -> int:
    """Fills what is unknown in rows of facts ``[n, NUM_FACTS]``, but for the rule's verb.

    - ``mean_pause_s``, ``remaining_s``: the estimates (the latter ``[n]``); without (NaN), one
      second, and as long again as the pause has lasted but at least a mean pause.
    - ``device_blocks``: all of its context; ``dirty_blocks``: those that the host does not hold.
    - ``tool_wait_s``: a mean pause for each turn before and what this one has lasted, at most its
      life; ``life_s``: that and the time to compute its context.
    - ``swap_is_legal``: whether the host has enough free blocks.

    Returns:
        Rows whose rule's verb is unknown, or none of the verbs: it is NaN now.
    """
    silent = 0
    for row in range(facts.shape[0]):
        fact = facts[row]
        if math.isnan(fact[F.MEAN_PAUSE_S]):
            known = estimated_mean_pause_s > 0.0 and estimated_mean_pause_s < math.inf
            fact[F.MEAN_PAUSE_S] = estimated_mean_pause_s if known else 1.0
        if math.isnan(fact[F.REMAINING_S]):
            left = estimated_remaining_s[row]
            if not (left >= 0.0 and left < math.inf):
                left = max(fact[F.ELAPSED_S], fact[F.MEAN_PAUSE_S])
            fact[F.REMAINING_S] = left
        if math.isnan(fact[F.DEVICE_BLOCKS]):
            fact[F.DEVICE_BLOCKS] = math.ceil(fact[F.CONTEXT_TOKENS] / fact[F.BLOCK_SIZE])
        if math.isnan(fact[F.SWAP_IS_LEGAL]):  # before dirty blocks are guessed, as in local_rule
            need = 1.0
            if fact[F.POINT] != CALL:
                dirty = 1.0 if math.isnan(fact[F.DIRTY_BLOCKS]) else fact[F.DIRTY_BLOCKS]
                need = min(dirty, max(fact[F.SHORT_BLOCKS], 1.0))
            room = fact[F.NUM_HOST_BLOCKS] > 0.0 and fact[F.HOST_FREE_BLOCKS] >= need
            fact[F.SWAP_IS_LEGAL] = 1.0 if room else 0.0
        if math.isnan(fact[F.DIRTY_BLOCKS]):
            fact[F.DIRTY_BLOCKS] = max(0.0, fact[F.DEVICE_BLOCKS] - fact[F.HOST_BLOCKS])
        if math.isnan(fact[F.TOOL_WAIT_S]):
            before = max(fact[F.NUM_TURNS] - 1.0, 0.0)
            waited_s = before * fact[F.MEAN_PAUSE_S] + fact[F.ELAPSED_S]
            if waited_s > fact[F.LIFE_S]:
                waited_s = fact[F.LIFE_S]
            fact[F.TOOL_WAIT_S] = waited_s
        if math.isnan(fact[F.LIFE_S]):
            computed_s = fact[F.CONTEXT_TOKENS] * fact[F.PREFILL_TOKEN_S]
            fact[F.LIFE_S] = fact[F.TOOL_WAIT_S] + computed_s
        verb = fact[F.RULE_VERB]
        if verb != PRESERVE and verb != SWAP and verb != DISCARD:
            fact[F.RULE_VERB] = math.nan
            silent += 1
    return silent


@jit
def is_one_machine(facts: F8) -> bool:
    """Whether all rows are of one machine, as those of an honest request are."""
    for row in range(1, facts.shape[0]):
        for i in range(F.MEAN_PAUSE_S):
            if facts[row, i] != facts[0, i]:
                return False
    return True


@jit
def look(
    facts: F8,
    departs: Bools,
    low: F8,
    high: F8,
    observations: F4,
    swap_legal: Bools,
    knows: Bools,
    heard: I8,
) -> tuple[int, float]:
    """Finds the rows on which a policy may be heard, and what it has to see of them.

    An engine whose own rule swaps may swap: one that swaps at once discards where the host has no
    room, and says SWAP all the same. A number that is not finite lies outside of everything.

    Args:
        facts: filled, ``[n, NUM_FACTS]``.
        departs: whether a row is of a machine where the policy may leave the rule, ``[n]``.
        low: least of each feature that was met in training, ``[NUM_FEATURES]``.
        high: likewise the most.
        observations: out, ``[n, NUM_FEATURES]``, of the rows that are heard, one after another.
        swap_legal: out, ``[n]``, where SWAP is legal, of the same rows.
        knows: out, ``[n]``, of all rows: whether such facts were met in training.
        heard: out, ``[n]``, the places of those rows.

    Returns:
        How many they are, and the largest size of a number in their observations.
    """
    num, largest = 0, 0.0
    for row in range(facts.shape[0]):
        seen = observations[num]
        offer_features(facts[row], seen)
        candidate_features(facts[row], seen)
        within, size = departs[row], 0.0
        for i in range(low.shape[0]):
            value = seen[i]
            size = max(size, abs(value))
            if not (value >= low[i] and value <= high[i] and abs(value) < math.inf):
                within = False
        knows[row] = within
        if within:
            swap_legal[num] = facts[row, F.SWAP_IS_LEGAL] == 1.0 or facts[row, F.RULE_VERB] == SWAP
            heard[num] = row
            largest = max(largest, size)
            num += 1
    return num, largest


@jit
def greedy(
    logits: Any, swap_legal: Bools, off: float, min_confidence: float, verb: I1, probability: F8
) -> int:
    """The best legal verb of each row of logits ``[n, 3]``, and its probability.

    Args:
        logits: of PRESERVE, SWAP, DISCARD; each may be ``off`` by so much.
        swap_legal: where SWAP may be answered, ``[n]``.
        off: at most.
        min_confidence: a probability that something hangs on.
        verb: out, ``[n]``; UNCLEAR where the error could change it, or the side of
            ``min_confidence`` on which its probability lies.
        probability: out, ``[n]``, of the verb.

    Returns:
        Rows that are unclear.
    """
    num_unclear = 0
    for row in range(logits.shape[0]):
        preserve, swap, discard = logits[row, 0], logits[row, 1], logits[row, 2]
        # Of equal ones PRESERVE comes first, then DISCARD, as in rlkv_engine.mlp.
        best, most = (PRESERVE, preserve) if preserve >= discard else (DISCARD, discard)
        second = min(preserve, discard)
        total = 1.0 + math.exp(second - most)
        if swap_legal[row]:
            second = max(second, min(swap, most))
            if swap > most:
                total = 1.0 + math.exp(preserve - swap) + math.exp(discard - swap)
                best, most = SWAP, swap
            else:
                total += math.exp(swap - most)
        clear = off == 0.0 or most - second > 2.0 * off
        if min_confidence > 0.0 and off > 0.0:
            # Each exponential, and so their sum, is off by at most a factor of exp(2 off).
            distance = abs(math.log(total * min_confidence))
            clear = clear and distance > 2.0 * off + 1e-6
        verb[row] = best if clear else UNCLEAR
        probability[row] = 1.0 / total
        if not clear:
            num_unclear += 1
    return num_unclear


@jit
def judge(
    facts: F8,
    order_s: F8,
    policy: I1,
    confidence: F8,
    knows: Bools,
    unsure: Bools,
    departs: Bools,
    left_s: F8,
    shadow: bool,
    min_confidence: float,
    small: I1,
    real: F4,
) -> None:
    """Who decides each row, and what the verdict says beside the verb.

    Args:
        facts: filled, ``[n, NUM_FACTS]``.
        order_s: places in the order of victims, the largest first, ``[n]``.
        policy: verbs of the policy ``[n]``; become the rule's where it has nothing to say.
        confidence: of these, ``[n]``.
        knows: whether it is within what was trained on, ``[n]``.
        unsure: whether it is below the bundle's own threshold, ``[n]``.
        departs: whether it is of a machine where the bundle leaves the rule, ``[n]``.
        left_s: quantiles of what is left of the pauses, NaN where unknown, ``[2, n]``: p50, p90.
        shadow: the rule decides whatever the policy says.
        min_confidence: below, the rule decides.
        small: out, ``[5, n]``: verb, soft_priority, fallback_used, reason, rule_verb.
        real: out, ``[4, n]``: lease_s, expected_return_p50_s, expected_return_p90_s, confidence.
    """  # fmt: skip
    for row in range(facts.shape[0]):
        rule = int(facts[row, F.RULE_VERB])
        reason = _SHADOW if shadow else _POLICY
        if not departs[row]:
            reason = _NO_POLICY
        elif not knows[row]:
            reason = _OUTSIDE
        if reason in (_NO_POLICY, _OUTSIDE):
            policy[row] = rule
        sure = confidence[row] if policy[row] != rule else 1.0
        if policy[row] != rule and (unsure[row] or not sure >= min_confidence):
            reason = _UNSURE
        verb = policy[row] if reason == _POLICY else rule
        remaining_s, unit_s = facts[row, F.REMAINING_S], facts[row, F.MEAN_PAUSE_S]
        p50_s = remaining_s if math.isnan(left_s[0, row]) else left_s[0, row]
        p90_s = 2.0 * remaining_s if math.isnan(left_s[1, row]) else left_s[1, row]
        small[0, row] = verb
        share = unit_s / (unit_s + order_s[row])
        small[1, row] = int(np.rint(100.0 * share)) if share >= 0.0 else 0
        small[2, row] = 0 if reason == _POLICY else 1
        small[3, row] = reason
        small[4, row] = rule
        real[0, row] = p90_s if verb == PRESERVE else 0.0
        real[1, row] = p50_s
        real[2, row] = p90_s
        real[3, row] = sure
