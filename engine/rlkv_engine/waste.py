"""InferCept's min-waste rule, reviewed in every iteration.

Waste is GPU memory times time (token seconds here; the bytes of a token cancel out). Sources:
arXiv 2402.01869 equations 1 to 5, and ``vllm/core/scheduler_v2.py`` of WukLab/InferCept at commit
3a1a4da (``discard_waste``); the budgeted swap of the most wasteful sessions is the paper's.
"""

from __future__ import annotations

from rlkv_engine.estimates import remaining_s
from rlkv_engine.jit import jit
from rlkv_engine.memory import has_host_room, swap_copies
from rlkv_engine.offers import take_blocks
from rlkv_engine.rule import ESTIMATE
from rlkv_engine.state import (
    CALLED,
    CHANGES,
    COMPUTED,
    DISCARD,
    HOST_RESERVED,
    ITERATION_S,
    JOB,
    KEEP,
    KV_DECODING,
    MAX_BATCHED,
    NOBODY,
    NUM_DECODING,
    NUM_PAUSED,
    NUM_RUN,
    OUT_BLOCK_S,
    PAUSED_LIST,
    PHASE,
    PREFILL,
    PREFILL_TOKEN_S,
    RULE,
    RUN,
    SID,
    SWAP,
    SWAP_OUT,
    VALID,
    ZERO,
    State,
)


@jit
def discard_waste(st: State, tokens: int, running_tokens: int) -> float:
    """Token seconds wasted by recomputing ``tokens`` in chunks beside the running sessions."""
    budget = st.n[MAX_BATCHED]
    chunk = max(budget - st.n[NUM_DECODING], 1)
    num_chunks = max((tokens + chunk - 1) // chunk - 1, 0)
    last = tokens % chunk
    full_s = st.f[PREFILL_TOKEN_S] * budget + st.f[ITERATION_S]
    chunk_s = st.f[PREFILL_TOKEN_S] * chunk
    last_s = st.f[PREFILL_TOKEN_S] * last
    return (
        full_s * num_chunks * (num_chunks + 1) / 2 * chunk
        + chunk_s * num_chunks * running_tokens
        + last_s * (running_tokens + last)
    )


@jit
def preserve_waste(st: State, s: int) -> float:
    """Token seconds that a paused slot will hold until its tool is expected to return."""
    return max(remaining_s(st, s, int(st.f[RULE + ESTIMATE])), 0.0) * st.slot[VALID, s]


@jit
def review(st: State) -> None:
    """Swap or discard every paused session that wastes more by staying (docs/scheduler.md, 7)."""
    running_tokens = st.n[KV_DECODING]
    for i in range(st.n[NUM_RUN]):
        if st.slot[PHASE, st.slot[RUN, i]] == PREFILL:
            running_tokens += st.slot[COMPUTED, st.slot[RUN, i]]
    full_s = st.f[PREFILL_TOKEN_S] * st.n[MAX_BATCHED] + st.f[ITERATION_S]
    budget_blocks = int(full_s / st.f[OUT_BLOCK_S])
    for i in range(st.n[NUM_PAUSED]):
        if st.slot[JOB, st.slot[PAUSED_LIST, i]] == SWAP_OUT:
            budget_blocks -= st.slot[HOST_RESERVED, st.slot[PAUSED_LIST, i]]
    while True:
        worst = NOBODY
        worst_waste = 0.0
        for i in range(st.n[NUM_PAUSED]):
            s = st.slot[PAUSED_LIST, i]
            if st.slot[KEEP, s] == 0 or st.slot[JOB, s] == SWAP_OUT or st.slot[CALLED, s] == 0:
                continue
            waste = discard_waste(st, st.slot[VALID, s], running_tokens)
            if waste < preserve_waste(st, s) and (
                worst < 0
                or waste > worst_waste
                or (waste == worst_waste and st.slot[SID, s] > st.slot[SID, worst])
            ):
                worst = s
                worst_waste = waste
        if worst < 0:
            return
        take = st.slot[KEEP, worst]
        copies = swap_copies(st, worst, ZERO)
        st.n[CHANGES] += 1
        if copies <= budget_blocks and has_host_room(st, worst, take):
            budget_blocks -= copies
            take_blocks(st, worst, SWAP, take)
        else:
            take_blocks(st, worst, DISCARD, take)
