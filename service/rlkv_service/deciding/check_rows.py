"""What a new bundle has to answer before it decides: made-up decisions, and the latest ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlkv_engine import facts as F
from rlkv_engine.errors import InputError
from rlkv_engine.observe import NUM_FEATURES
from rlkv_service.columns import DecisionRows
from rlkv_service.deciding.active_bundle import ActiveBundle
from rlkv_service.deciding.decider import Decider
from rlkv_service.local_rule import swap_is_legal
from rlkv_service.schema import Point, Verb

_NUM_MADE_UP = 256


def made_up_rows(num: int = _NUM_MADE_UP) -> DecisionRows:
    """Decisions of one machine, always the same: every point, full and empty pools, all pauses."""
    rng = np.random.default_rng(0)
    facts = np.array([np.nan if f.default is None else f.default for f in F.FACTS])
    facts = np.tile(facts, (num, 1))
    facts[:, F.BLOCK_SIZE] = 16.0
    facts[:, F.NUM_DEVICE_BLOCKS] = 4096.0
    facts[:, F.NUM_HOST_BLOCKS] = 8192.0
    facts[:, F.MAX_NUM_SEQS] = 64.0
    facts[:, F.PREFILL_TOKEN_S] = 1e-4
    facts[:, F.SWAP_OUT_BLOCK_S] = facts[:, F.SWAP_IN_BLOCK_S] = 5e-4
    facts[:, F.POINT] = np.arange(num) % len(Point)
    facts[:, F.FREE_BLOCKS] = rng.integers(0, 4096, num)
    facts[:, F.PAUSED_BLOCKS] = 4096.0 - facts[:, F.FREE_BLOCKS]
    facts[:, F.HOST_FREE_BLOCKS] = rng.integers(0, 8192, num)
    facts[:, F.NUM_PAUSED] = rng.integers(1, 64, num)
    facts[:, F.NEED_BLOCKS] = facts[:, F.SHORT_BLOCKS] = rng.integers(1, 512, num)
    facts[:, F.CONTEXT_TOKENS] = rng.integers(1, 32_768, num)
    facts[:, F.NUM_TURNS] = rng.integers(1, 30, num)
    facts[:, F.ELAPSED_S] = 10.0 ** rng.uniform(-2.0, 2.0, num)
    facts[:, F.REMAINING_S] = 10.0 ** rng.uniform(-2.0, 2.0, num)
    facts[:, F.MEAN_PAUSE_S] = 10.0 ** rng.uniform(-1.0, 1.0, num)
    names = [str(row) for row in range(num)]
    return DecisionRows(names, np.zeros(num, np.int64), names, facts)


def check_bundle(bundle: ActiveBundle, recorded: Sequence[DecisionRows]) -> None:
    """Lets a bundle answer made-up observations and rows, and recorded rows.

    Raises:
        InputError: an answer is no verb, not legal, or its confidence is no number.
    """
    _check_answers(bundle)
    decider = Decider(bundle)
    for rows in (made_up_rows(), *recorded):
        verdicts = decider.decide("", rows)
        columns = (verdicts.verb, verdicts.policy_verb, verdicts.rule_verb)
        if not np.isin(columns, list(Verb)).all():
            raise InputError(f"{bundle.version} answers what is no verb")
        may_swap = swap_is_legal(rows.facts) | (verdicts.rule_verb == Verb.SWAP)
        if ((verdicts.policy_verb == Verb.SWAP) & ~may_swap).any():
            raise InputError(f"{bundle.version} swaps where the host has no room")
        if not ((verdicts.confidence >= 0.0) & (verdicts.confidence <= 1.0)).all():
            raise InputError(f"{bundle.version} answers with a confidence that is not 0 to 1")


def _check_answers(bundle: ActiveBundle) -> None:
    """Asks the policy itself: on the machine of a row it may not be heard."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(_NUM_MADE_UP, NUM_FEATURES))
    observations = np.clip(drawn, bundle.low, bundle.high).astype(np.float32)
    may_swap = np.arange(_NUM_MADE_UP) % 2 == 0
    largest = float(np.abs(observations).max())
    verb, confidence, _ = bundle.answer(observations, may_swap, largest)
    if not np.isin(verb, list(Verb)).all() or ((verb == Verb.SWAP) & ~may_swap).any():
        raise InputError(f"{bundle.version} answers what is no verb, or not a legal one")
    if not ((confidence >= 0.0) & (confidence <= 1.0)).all():
        raise InputError(f"{bundle.version} answers with a confidence that is not 0 to 1")
