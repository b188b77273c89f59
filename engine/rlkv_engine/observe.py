"""What a policy sees at a decision: dimensionless features, all knowable at that moment.

``FEATURES`` gives name, range and meaning of each. The offer's part is a snapshot taken when the
offer opens, so that the observation of one candidate never depends on the answers about earlier
ones (only its rank does).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import facts as F
from rlkv_engine.candidate import dirty_blocks
from rlkv_engine.estimates import BY_TOOL, remaining_s
from rlkv_engine.jit import jit
from rlkv_engine.memory import can_swap
from rlkv_engine.rule import rule_verb_behind
from rlkv_engine.sessions import arrival_s
from rlkv_engine.state import (
    ARRIVED_AT,
    BLOCK_SIZE,
    CALL,
    DECISION_POINT,
    DECISION_SLOT,
    DECISION_TAKE,
    DISCARD,
    FACTS,
    FIRST_SESSION,
    FREE,
    HOST_FREE,
    HOST_HI,
    HOST_LO,
    IN_BLOCK_S,
    JOB,
    KEEP,
    KV_DECODING,
    MAX_SEQS,
    MEAN_PAUSE_S,
    NEW,
    NEXT_ARRIVAL,
    NEXT_NEW,
    NOW,
    NUM_DEVICE,
    NUM_HOST,
    NUM_PAUSED,
    NUM_QUEUE,
    NUM_RUN,
    OFFER_KIND,
    OFFER_NEED,
    OFFER_RANK,
    OFFER_SHORT,
    OFFER_SLOT,
    OUT_BLOCK_S,
    PAUSE_START,
    PAUSED_FIRM,
    PAUSED_S,
    PENDING,
    PREFILL_TOKEN_CONTEXT_S,
    PREFILL_TOKEN_S,
    PRESERVE,
    RECLAIMABLE,
    REQUESTED_AT,
    RESUME,
    SID,
    SNAPSHOT,
    SWAP,
    SWAP_NOW,
    TURN,
    VALID,
    WRITE_THROUGH,
    ZERO,
    State,
)

F8 = NDArray[np.float64]
Out = NDArray[np.float32] | F8


class Feature(NamedTuple):
    """One observation: name, range, and what it is."""

    name: str
    low: float
    high: float
    meaning: str


#: Absolute pauses, in seconds, around which the soft steps of the expected remainder lie.
STEPS_S = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

OFFER_FEATURES = (
    Feature("point_call", 0, 1, "1 at a CALL"),
    Feature("point_new", 0, 1, "1 at a REVISIT for a new session"),
    Feature("point_resume", 0, 1, "1 at a REVISIT for a session that came back"),
    Feature("point_grow", 0, 1, "1 at a REVISIT for a decoding session"),
    Feature("free", 0, 1, "free device blocks / device pool"),
    Feature("reclaimable", 0, 1, "discarded blocks not overwritten yet / device pool"),
    Feature("pending", 0, 1, "blocks being swapped out / device pool"),
    Feature("paused_firm", 0, 1, "blocks held firmly by paused sessions / device pool"),
    Feature("decoding", 0, 1, "KV of decoding sessions / device pool"),
    Feature("host_free", 0, 1, "free host blocks / host pool (0 without a host tier)"),
    Feature("host_size", 0, 1, "h / (h + 1), h = host pool / device pool"),
    Feature("running", 0, 1, "sessions in PREFILL or DECODE / max_num_seqs"),
    Feature("queued", 0, 2, "log(1 + sessions back from a tool that wait for memory) / 4"),
    Feature("new_waiting", 0, 4, "log(1 + sessions never admitted yet) / 4"),
    Feature("paused", 0, 4, "log(1 + paused sessions) / 4"),
    Feature("need", 0, 1, "blocks the requester needs / device pool"),
    Feature("short", 0, 1.1, "blocks missing when the offer opened, with slack / device pool"),
    Feature("wait_pauses", 0, 1, "w / (w + 1), w = requester's wait so far / mean pause"),
    Feature("wait_recompute", 0, 1, "w / (w + 1), w = its wait / time to compute what it needs"),
    Feature("waited_1s", 0, 1, "w / (w + 1 s), w = its wait"),
    Feature("link_speed", -2, 2, "log10(copying a block out and in / recomputing it), clipped"),
)
CANDIDATE_FEATURES = (
    Feature("context", 0, 1, "tokens of context / device pool in tokens"),
    Feature("on_device", 0, 1, "firm device blocks / blocks of its context"),
    Feature("on_host", 0, 1, "blocks that the host holds / blocks of its context"),
    Feature("dirty", 0, 1, "firm device blocks not on the host / device pool"),
    Feature("copying", 0, 1, "1 while a write-through of it runs"),
    Feature("turn", 0, 4, "log(1 + turns so far) / 3"),
    Feature("elapsed_pauses", 0, 1, "e / (e + 1), e = elapsed pause / mean pause"),
    Feature("elapsed", 0, 4, "log(1 + elapsed pause in s) / 5"),
    Feature("remaining_pauses", 0, 1, "r / (r + 1), r = expected remaining pause / mean pause"),
    *(Feature(f"remaining_{t:g}s", 0, 1, f"r / (r + {t:g} s), r = expected remaining pause")
      for t in STEPS_S),
    Feature("link_over_recompute", -2, 2, "log10(copying its context / recomputing it), clipped"),
    Feature("recompute_pauses", 0, 1, "c / (c + 1), c = time to recompute it / mean pause"),
    Feature("remaining_recompute", 0, 1, "r / (r + 10 c), c = time to recompute it"),
    Feature("idleness", 0, 1, "share of its life so far spent waiting for tools"),
    Feature("rank", 0, 1, "k / (k + 4), k = candidates asked before it in this offer"),
    Feature("rule_preserve", 0, 1, "1 if the reference rule says PRESERVE"),
    Feature("rule_swap", 0, 1, "1 if the reference rule says SWAP"),
    Feature("rule_discard", 0, 1, "1 if the reference rule says DISCARD"),
)  # fmt: skip
FEATURES = OFFER_FEATURES + CANDIDATE_FEATURES
NUM_OFFER_FEATURES = len(OFFER_FEATURES)
NUM_FEATURES = len(FEATURES)


@jit
def _share(x: float, unit: float) -> float:
    return x / (x + unit) if x > 0.0 else 0.0


@jit
def _log_ratio(copy_s: float, compute_s: float) -> float:
    if copy_s <= 0.0 or compute_s <= 0.0:
        return -2.0
    return max(-2.0, min(2.0, math.log10(copy_s / compute_s)))


@jit
def legal_rule_verb(st: State, point: int, s: int, pending: float, swap_legal: bool) -> int:
    """What the rule's verb amounts to: a SWAP without host room keeps at a CALL, else discards."""
    verb = rule_verb_behind(st, point, s, pending)
    if verb == SWAP and not swap_legal:
        return PRESERVE if point == CALL else DISCARD
    return verb


@jit
def offer_facts(st: State, point: int, need: int, short: int, wait_s: float, facts: F8) -> None:
    """What all candidates share, were they asked now for a requester that needs these blocks."""
    facts[F.BLOCK_SIZE] = st.n[BLOCK_SIZE]
    facts[F.NUM_DEVICE_BLOCKS] = st.n[NUM_DEVICE]
    facts[F.NUM_HOST_BLOCKS] = st.n[NUM_HOST]
    facts[F.MAX_NUM_SEQS] = st.n[MAX_SEQS]
    facts[F.PREFILL_TOKEN_S] = st.f[PREFILL_TOKEN_S]
    facts[F.PREFILL_TOKEN_CONTEXT_S] = st.f[PREFILL_TOKEN_CONTEXT_S]
    facts[F.SWAP_OUT_BLOCK_S] = st.f[OUT_BLOCK_S]
    facts[F.SWAP_IN_BLOCK_S] = st.f[IN_BLOCK_S]
    facts[F.MEAN_PAUSE_S] = st.f[MEAN_PAUSE_S]
    facts[F.POINT] = point
    facts[F.FREE_BLOCKS] = st.n[FREE]
    facts[F.RECLAIMABLE_BLOCKS] = st.n[RECLAIMABLE]
    facts[F.PENDING_BLOCKS] = st.n[PENDING]
    facts[F.PAUSED_BLOCKS] = st.n[PAUSED_FIRM]
    facts[F.DECODING_TOKENS] = st.n[KV_DECODING]
    facts[F.HOST_FREE_BLOCKS] = st.n[HOST_FREE]
    facts[F.NUM_RUNNING] = st.n[NUM_RUN]
    facts[F.NUM_QUEUED] = st.n[NUM_QUEUE]
    facts[F.NUM_NEW] = st.n[NEXT_ARRIVAL] - st.n[NEXT_NEW]
    facts[F.NUM_PAUSED] = st.n[NUM_PAUSED]
    facts[F.NEED_BLOCKS] = need
    facts[F.SHORT_BLOCKS] = short
    facts[F.WAIT_S] = wait_s


@jit
def requester_wait_s(st: State, point: int, requester: int) -> float:
    """How long the head of the queue has waited: a slot, or the first new session (NEW)."""
    if point == NEW:
        return st.f[NOW] - arrival_s(st, st.n[NEXT_NEW])
    if point == RESUME:
        return st.f[NOW] - st.real[REQUESTED_AT, requester]
    return 0.0


@jit
def candidate_facts(st: State, point: int, s: int, take: int, rank: int, facts: F8) -> None:
    """What is a candidate's own, were ``take`` blocks of it asked for now."""
    elapsed = st.f[NOW] - st.real[PAUSE_START, s]
    facts[F.CONTEXT_TOKENS] = st.slot[VALID, s]
    facts[F.DEVICE_BLOCKS] = st.slot[KEEP, s]
    facts[F.HOST_BLOCKS] = st.slot[HOST_HI, s] - st.slot[HOST_LO, s]
    facts[F.DIRTY_BLOCKS] = dirty_blocks(st, s)
    facts[F.COPYING] = 1.0 if st.slot[JOB, s] == WRITE_THROUGH else 0.0
    facts[F.NUM_TURNS] = st.slot[TURN, s] - st.first_turn[st.n[FIRST_SESSION] + st.slot[SID, s]] + 1
    facts[F.ELAPSED_S] = elapsed
    facts[F.REMAINING_S] = remaining_s(st, s, BY_TOOL)
    facts[F.LIFE_S] = st.f[NOW] - st.real[ARRIVED_AT, s]
    facts[F.TOOL_WAIT_S] = st.real[PAUSED_S, s] + elapsed
    facts[F.RANK] = rank
    swap_legal = can_swap(st, point, s, take)
    facts[F.SWAP_IS_LEGAL] = 1.0 if swap_legal else 0.0
    verb = legal_rule_verb(st, point, s, facts[F.PENDING_BLOCKS], swap_legal)
    facts[F.RULE_VERB] = SWAP if verb == SWAP_NOW else verb


@jit
def offer_features(facts: F8, out: Out) -> None:
    """The offer's part of the observation, ``OFFER_FEATURES``, from ``facts.NUM_FACTS`` numbers."""
    pool = facts[F.NUM_DEVICE_BLOCKS]
    block_size = facts[F.BLOCK_SIZE]
    for point in range(4):
        out[point] = 1.0 if point == facts[F.POINT] else 0.0
    out[4] = facts[F.FREE_BLOCKS] / pool
    out[5] = facts[F.RECLAIMABLE_BLOCKS] / pool
    out[6] = facts[F.PENDING_BLOCKS] / pool
    out[7] = facts[F.PAUSED_BLOCKS] / pool
    out[8] = facts[F.DECODING_TOKENS] / (pool * block_size)
    host = facts[F.NUM_HOST_BLOCKS]
    out[9] = facts[F.HOST_FREE_BLOCKS] / host if host > 0 else 0.0
    out[10] = _share(host / pool, 1.0)
    out[11] = facts[F.NUM_RUNNING] / facts[F.MAX_NUM_SEQS]
    out[12] = min(2.0, math.log(1.0 + facts[F.NUM_QUEUED]) / 4.0)
    out[13] = min(4.0, math.log(1.0 + facts[F.NUM_NEW]) / 4.0)
    out[14] = min(4.0, math.log(1.0 + facts[F.NUM_PAUSED]) / 4.0)
    wait = facts[F.WAIT_S]
    compute_s = facts[F.NEED_BLOCKS] * block_size * facts[F.PREFILL_TOKEN_S]
    out[15] = facts[F.NEED_BLOCKS] / pool
    out[16] = facts[F.SHORT_BLOCKS] / pool
    out[17] = _share(wait, facts[F.MEAN_PAUSE_S])
    out[18] = _share(wait, compute_s + 1e-3)
    out[19] = _share(wait, 1.0)
    half = 0.5 * pool * block_size / 4.0
    out[20] = _log_ratio(
        facts[F.SWAP_OUT_BLOCK_S] + facts[F.SWAP_IN_BLOCK_S],
        block_size * (facts[F.PREFILL_TOKEN_S] + facts[F.PREFILL_TOKEN_CONTEXT_S] * half),
    )


@jit
def candidate_features(facts: F8, out: Out) -> None:
    """The candidate's part, ``CANDIDATE_FEATURES``, into ``out`` behind the offer's."""
    pool = facts[F.NUM_DEVICE_BLOCKS]
    mean_s = facts[F.MEAN_PAUSE_S]
    tokens = facts[F.CONTEXT_TOKENS]
    blocks = max(1.0, tokens / facts[F.BLOCK_SIZE])
    elapsed, remaining = facts[F.ELAPSED_S], facts[F.REMAINING_S]
    # Its share of full iterations, and its context out and in again.
    again_s = tokens * (facts[F.PREFILL_TOKEN_S] + facts[F.PREFILL_TOKEN_CONTEXT_S] * 0.5 * tokens)
    copy_s = tokens / facts[F.BLOCK_SIZE] * (facts[F.SWAP_OUT_BLOCK_S] + facts[F.SWAP_IN_BLOCK_S])
    i = NUM_OFFER_FEATURES
    out[i] = blocks / pool
    out[i + 1] = min(1.0, facts[F.DEVICE_BLOCKS] / blocks)
    out[i + 2] = min(1.0, facts[F.HOST_BLOCKS] / blocks)
    out[i + 3] = facts[F.DIRTY_BLOCKS] / pool
    out[i + 4] = facts[F.COPYING]
    out[i + 5] = min(4.0, math.log(1.0 + facts[F.NUM_TURNS]) / 3.0)
    out[i + 6] = _share(elapsed, mean_s)
    out[i + 7] = min(4.0, math.log(1.0 + elapsed) / 5.0)
    out[i + 8] = _share(remaining, mean_s)
    i += 9
    for step in STEPS_S:
        out[i] = _share(remaining, step)
        i += 1
    out[i] = _log_ratio(copy_s, again_s)
    out[i + 1] = _share(again_s, mean_s)
    out[i + 2] = _share(remaining, 10.0 * again_s + 1e-9)
    out[i + 3] = min(1.0, facts[F.TOOL_WAIT_S] / (facts[F.LIFE_S] + 1e-9))
    out[i + 4] = _share(facts[F.RANK], 4.0)
    out[i + 5] = 1.0 if facts[F.RULE_VERB] == 0 else 0.0
    out[i + 6] = 1.0 if facts[F.RULE_VERB] == 1 else 0.0
    out[i + 7] = 1.0 if facts[F.RULE_VERB] == 2 else 0.0


@jit
def take_snapshot(st: State) -> None:
    """The offer's facts and its part of the observation, as of now."""
    facts = st.f[FACTS : FACTS + F.NUM_FACTS]
    point, need, short = st.n[OFFER_KIND], ZERO, ZERO
    if point != CALL:
        need, short = st.n[OFFER_NEED], st.n[OFFER_SHORT]
    wait_s = requester_wait_s(st, point, st.n[OFFER_SLOT])
    offer_facts(st, point, need, short, wait_s, facts)
    offer_features(facts, st.f[SNAPSHOT : SNAPSHOT + NUM_OFFER_FEATURES])


@jit
def take_facts(st: State) -> None:
    """The facts of the open decision into ``st.f[FACTS : FACTS + NUM_FACTS]``."""
    point = st.n[DECISION_POINT]
    if point == CALL:
        take_snapshot(st)  # a CALL is an offer of its own, and nothing has changed since
    rank = st.n[OFFER_RANK] if point != CALL else ZERO
    facts = st.f[FACTS : FACTS + F.NUM_FACTS]
    candidate_facts(st, point, st.n[DECISION_SLOT], st.n[DECISION_TAKE], rank, facts)


@jit
def observe(st: State, out: NDArray[np.float32]) -> None:
    """The observation of the open decision, shape ``[NUM_FEATURES]``."""
    take_facts(st)
    for i in range(NUM_OFFER_FEATURES):
        out[i] = st.f[SNAPSHOT + i]
    candidate_features(st.f[FACTS : FACTS + F.NUM_FACTS], out)


@jit
def observe_facts(facts: F8, out: NDArray[np.float32]) -> None:
    """Observations ``[n, NUM_FEATURES]`` of rows of facts, shape ``[n, facts.NUM_FACTS]``."""
    for row in range(facts.shape[0]):
        offer_features(facts[row], out[row])
        candidate_features(facts[row], out[row])
