"""Many iterations in one go, while all that happens is that sessions decode."""

from __future__ import annotations

from rlkv_engine.decoding import catch_up, set_due, tokens_left
from rlkv_engine.events import next_event_s
from rlkv_engine.iteration import MIN_STEP_S
from rlkv_engine.jit import jit, jit_inline
from rlkv_engine.rule import EAGER
from rlkv_engine.state import (
    ACTIVE_WEIGHT,
    BLOCK_SIZE,
    BUSY_S,
    COMPUTED,
    COMPUTED_TOKENS,
    COST,
    COST_QUEUED,
    DECODE_SESSION_S,
    DEV,
    DUE,
    FREE,
    HELD_PAUSED,
    IN_IDLE,
    ITERATION,
    ITERATION_S,
    KEEP,
    KV_DECODING,
    KV_TOKEN_S,
    NEVER,
    NOW,
    NUM_DECODING,
    NUM_GENERATED,
    NUM_RUN,
    NUM_SWAP_OUT,
    NUM_WRITE_THROUGH,
    OUT_IDLE,
    PAUSED_FIRM,
    PREFILL_TOKEN_CONTEXT_S,
    PREFILL_TOKEN_S,
    QUEUED_WEIGHT,
    RULE,
    RUN,
    SCRATCH,
    WAS_IDLE,
    State,
)


@jit_inline
def can_sprint(st: State) -> bool:
    """May iterations be run in one go: only decoding, no copies, nobody to ask or to admit?

    Not the first after an empty batch either, which takes longer.

    Called right after growth and admission found nothing to do, so that whoever waits for memory
    has been turned away and waits for a change, which a pure decode run does not bring.
    """
    return (
        st.n[NUM_DECODING] > 0
        and st.n[NUM_RUN] == st.n[NUM_DECODING]
        and st.n[NUM_SWAP_OUT] == 0
        and st.n[NUM_WRITE_THROUGH] == 0
        and st.n[WAS_IDLE] == 0
        and st.f[RULE + EAGER] == 0
        and st.log.shape[0] == 0
    )


@jit
def sprint(st: State, until_s: float) -> None:
    """Run pure decode iterations until an event, the end of a turn, or memory runs out.

    The same arithmetic, in the same order, as ``iterate``; the sessions are updated once at the
    end.
    """
    num_growing = st.slot[SCRATCH]
    block_size = st.n[BLOCK_SIZE]
    num_decode = st.n[NUM_DECODING]
    num_growing[:block_size] = 0
    most = NEVER
    for i in range(num_decode):
        s = st.slot[RUN, i]
        if st.slot[DUE, s] == st.n[ITERATION]:
            return  # somebody is stalled
        catch_up(st, s, st.n[ITERATION])
        # Iteration k (from 0) fills position computed + k; before iteration k > 0 a session
        # needs a block when computed + k is a multiple of the block size.
        num_growing[(-st.slot[COMPUTED, s]) % block_size] += 1
        most = min(most, tokens_left(st, s))
    event = min(next_event_s(st), until_s)
    base = st.f[ITERATION_S] + st.f[PREFILL_TOKEN_S] * 0 + st.f[PREFILL_TOKEN_CONTEXT_S] * 0.0
    base = base + st.f[DECODE_SESSION_S] * num_decode
    kv_tokens = st.n[KV_DECODING]
    now = st.f[NOW]
    free = st.n[FREE]
    busy = 0.0
    k = 0
    # The last iteration, where a turn ends, is left to `iterate`.
    while k < most - 1 and now < event:
        if k > 0:
            grown = num_growing[k % block_size]
            if grown > free:
                break
            free -= grown
        dt = max(base + st.f[KV_TOKEN_S] * kv_tokens, MIN_STEP_S)
        now += dt
        busy += dt
        kv_tokens += num_decode
        k += 1
    if k == 0:
        return
    for i in range(num_decode):
        s = st.slot[RUN, i]
        catch_up(st, s, st.n[ITERATION] + k)
        blocks = (st.slot[COMPUTED, s] + block_size - 1) // block_size
        st.slot[DEV, s] = blocks
        st.slot[KEEP, s] = blocks
        set_due(st, s)
    st.n[FREE] = free
    st.n[KV_DECODING] = kv_tokens
    st.n[IN_IDLE] = st.n[OUT_IDLE] = 1
    st.n[ITERATION] += k
    st.n[COMPUTED_TOKENS] += k * num_decode
    st.n[NUM_GENERATED] += k * num_decode
    st.f[NOW] = now
    st.f[BUSY_S] += busy
    st.f[COST] += st.f[ACTIVE_WEIGHT] * busy
    st.f[COST_QUEUED] += st.f[QUEUED_WEIGHT] * busy
    st.f[HELD_PAUSED] += st.n[PAUSED_FIRM] * busy
