"""The batch of one iteration runs: what it is, how long it takes, and what comes of it."""

from __future__ import annotations

import math

from rlkv_engine.decoding import catch_up, set_due, tokens_left
from rlkv_engine.events import next_event_s
from rlkv_engine.jit import jit_inline
from rlkv_engine.latency import note_first_token
from rlkv_engine.link import any_loading, is_loading, run_links, run_links_at_once
from rlkv_engine.sessions import end_turn, start_decode
from rlkv_engine.state import (
    ACTIVE_WEIGHT,
    BLOCK_SIZE,
    BUSY_S,
    CHUNK,
    CHUNKED_PREFILL,
    COMPUTED,
    COMPUTED_TOKENS,
    COPY_BLOCK_S,
    COPY_ITERATION_S,
    COPY_ONLY_ITERATION_S,
    COST,
    COST_QUEUED,
    DECODE,
    DECODE_SESSION_S,
    DUE,
    GENERATED,
    HELD_PAUSED,
    HOST_HI,
    HOST_LO,
    ITERATION,
    ITERATION_S,
    KV_DECODING,
    KV_TOKEN_S,
    LOG_DECODE,
    LOG_PREFILL,
    MAX_BATCHED,
    NEVER,
    NOW,
    NUM_DECODING,
    NUM_GENERATED,
    NUM_RUN,
    NUM_SWAP_OUT,
    OVERLAP_SWAP,
    PAUSED_FIRM,
    PHASE,
    PREFILL_ITERATION_S,
    PREFILL_TOKEN_CONTEXT_S,
    PREFILL_TOKEN_S,
    PREFILLING,
    QUEUED_WEIGHT,
    RECOMPUTE_S,
    RECOMPUTED,
    RECOMPUTED_TOKENS,
    RUN,
    SID,
    SINCE,
    STALL_S,
    STALLED,
    STALLED_AT,
    TARGET,
    VALID,
    WAKE_S,
    WAS_IDLE,
    State,
    log_row,
)

#: Shortest step of the virtual clock, seconds.
MIN_STEP_S = 1e-9


@jit_inline
def _plan_prefill(st: State, budget: int) -> tuple[int, float]:
    # Chunks by priority: their tokens, and the sum of chunk * (computed + chunk / 2).
    block_size = st.n[BLOCK_SIZE]
    left = budget
    area = 0.0
    for i in range(st.n[NUM_RUN] - st.n[NUM_DECODING]):
        if left <= 0:
            break
        s = st.slot[PREFILLING, i]
        if is_loading(st, s):
            continue
        end = st.slot[TARGET, s]
        if (
            st.slot[HOST_HI, s] > st.slot[HOST_LO, s]
            and st.slot[COMPUTED, s] < st.slot[HOST_LO, s] * block_size
        ):
            end = st.slot[HOST_LO, s] * block_size
        chunk = end - st.slot[COMPUTED, s]
        if st.n[CHUNKED_PREFILL] == 1:
            chunk = min(chunk, left)
        st.slot[CHUNK, s] = chunk
        st.slot[DUE, s] = st.n[ITERATION] + 1
        left -= chunk
        area += chunk * (st.slot[COMPUTED, s] + 0.5 * chunk)
        log_row(st, LOG_PREFILL, st.slot[SID, s], chunk)
    return budget - left, area


@jit_inline
def _compute_chunk(st: State, s: int) -> None:
    chunk = st.slot[CHUNK, s]
    again = min(max(st.slot[VALID, s] - st.slot[COMPUTED, s], 0), chunk)
    st.n[COMPUTED_TOKENS] += chunk
    st.n[RECOMPUTED_TOKENS] += again
    st.slot[RECOMPUTED, s] += again
    st.f[RECOMPUTE_S] += again * (
        st.f[PREFILL_TOKEN_S] + st.f[PREFILL_TOKEN_CONTEXT_S] * st.slot[COMPUTED, s]
    )
    st.slot[COMPUTED, s] += chunk
    st.slot[DUE, s] = NEVER


@jit_inline
def _apply(st: State) -> None:
    # By priority: chunks, and turns that end. end_turn takes sessions out of the run list, so walk
    # with care.
    done = st.n[ITERATION] + 1
    i = 0
    while i < st.n[NUM_RUN]:
        s = st.slot[RUN, i]
        i += 1
        if st.slot[DUE, s] > done:
            continue
        if st.slot[PHASE, s] == DECODE:
            if st.slot[DUE, s] < done:
                # Stalled, and so everything of it one iteration later.
                st.slot[SINCE, s] = done
                st.slot[DUE, s] = done
                continue
            if tokens_left(st, s) > done - st.slot[SINCE, s]:
                continue  # it is a block that is due
            catch_up(st, s, done)
        else:
            _compute_chunk(st, s)
            if st.slot[COMPUTED, s] < st.slot[TARGET, s]:
                continue
            if st.slot[GENERATED, s] == 0:
                note_first_token(st, s)
            start_decode(st, s)
            st.slot[GENERATED, s] += 1
            st.n[NUM_GENERATED] += 1
            st.slot[SINCE, s] = done
            set_due(st, s)
        if tokens_left(st, s) == 0:
            end_turn(st, s)
            i -= 1


@jit_inline
def pass_time(st: State, dt: float) -> None:
    """The clock and every integral over time move on by ``dt`` seconds."""
    st.f[COST] += st.f[ACTIVE_WEIGHT] * dt
    st.f[COST_QUEUED] += st.f[QUEUED_WEIGHT] * dt
    st.f[HELD_PAUSED] += st.n[PAUSED_FIRM] * dt
    st.f[NOW] += dt


@jit_inline
def start_iteration(st: State, longest_idle_s: float) -> tuple[float, int, int, float, int]:
    """Sections 2.6 to 2.8: the batch, and the copies made beside it.

    Returns how long the iteration takes by the cost model, seconds (with an empty batch until the
    next event, ``longest_idle_s`` at most; infinite where nothing is left to do), and what that
    depends on: decoding sessions, prefill tokens, the sum of the tokens before each of these, KV
    tokens read.
    """
    num_stalled = 0
    kv_tokens = st.n[KV_DECODING]
    if st.n[STALLED_AT] == st.n[ITERATION]:
        for i in range(st.n[NUM_RUN]):
            s = st.slot[RUN, i]
            if st.slot[PHASE, s] == DECODE and st.slot[STALLED, s] == st.n[ITERATION]:
                num_stalled += 1
                kv_tokens -= st.slot[COMPUTED, s]
    num_decode = st.n[NUM_DECODING] - num_stalled
    area = 0.0
    prefill_tokens = 0
    if st.n[NUM_RUN] > st.n[NUM_DECODING]:
        prefill_tokens, area = _plan_prefill(st, st.n[MAX_BATCHED] - num_decode)
    if num_decode > 0 or prefill_tokens > 0:
        dt = (
            st.f[ITERATION_S]
            + st.f[PREFILL_TOKEN_S] * prefill_tokens
            + st.f[PREFILL_TOKEN_CONTEXT_S] * area
            + st.f[DECODE_SESSION_S] * num_decode
            + st.f[KV_TOKEN_S] * kv_tokens
        )
        if prefill_tokens > 0:
            dt += st.f[PREFILL_ITERATION_S]
        if st.n[WAS_IDLE] == 1:
            st.n[WAS_IDLE] = 0
            dt += st.f[WAKE_S]
        st.f[BUSY_S] += dt
    else:
        st.n[WAS_IDLE] = 1
        dt = min(next_event_s(st) - st.f[NOW], longest_idle_s)
        if st.n[NUM_SWAP_OUT] > 0 or any_loading(st):
            dt = min(dt, st.f[COPY_ONLY_ITERATION_S])
        if dt == math.inf:
            return dt, 0, 0, 0.0, 0
    dt = max(dt, MIN_STEP_S)
    log_row(st, LOG_DECODE, num_decode, prefill_tokens)
    if st.n[OVERLAP_SWAP] == 1:
        copied = run_links(st, dt)
        if copied > 0 and num_decode + prefill_tokens > 0:
            slower = st.f[COPY_ITERATION_S] + st.f[COPY_BLOCK_S] * copied
            st.f[STALL_S] += slower
            dt += slower
    else:
        stall = run_links_at_once(st, dt)
        st.f[STALL_S] += stall
        dt += stall
    return dt, num_decode, prefill_tokens, area, kv_tokens


@jit_inline
def end_iteration(st: State, num_decode: int, dt: float) -> None:
    """Section 2.9: ``dt`` seconds have passed, and what was computed counts."""
    pass_time(st, dt)
    st.n[KV_DECODING] += num_decode
    st.n[COMPUTED_TOKENS] += num_decode
    st.n[NUM_GENERATED] += num_decode
    _apply(st)
    st.n[ITERATION] += 1


@jit_inline
def iterate(st: State) -> bool:
    """Sections 2.6 to 2.9: the batch runs. False when nothing is left to do."""
    dt, num_decode, _, _, _ = start_iteration(st, math.inf)
    if dt == math.inf:
        return False
    end_iteration(st, num_decode, dt)
    return True
