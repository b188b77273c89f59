"""Copies between the tiers while an iteration runs (docs/scheduler.md, section 3)."""

from __future__ import annotations

from rlkv_engine.jit import jit, jit_inline
from rlkv_engine.memory import end_job, release_copied
from rlkv_engine.state import (
    BLOCK_SIZE,
    BLOCKS_IN,
    BLOCKS_OUT,
    COMPUTED,
    COST_LOADING,
    DEV,
    HOST_HI,
    HOST_LO,
    HOST_RESERVED,
    IN_BLOCK_S,
    IN_CREDIT,
    IN_IDLE,
    JOB,
    JOB_FLOOR,
    KEEP,
    LATENCY_S,
    LOADED,
    LOG_COPY_OUT,
    LOG_LOAD,
    NUM_DECODING,
    NUM_DEVICE,
    NUM_RUN,
    NUM_SWAP_OUT,
    OUT_BLOCK_S,
    OUT_CREDIT,
    OUT_IDLE,
    PREFILLING,
    SHARED_LINK,
    SID,
    SWAP_OUT,
    SWAP_OUT_FIRST,
    VALID,
    WEIGHT,
    WRITE_THROUGH_FIRST,
    State,
    log_row,
)


@jit_inline
def is_loading(st: State, s: int) -> bool:
    """Is the next thing that a session in PREFILL needs on the host?"""
    block_size = st.n[BLOCK_SIZE]
    return (
        st.slot[HOST_LO, s] * block_size <= st.slot[COMPUTED, s]
        and st.slot[COMPUTED, s] < st.slot[HOST_HI, s] * block_size
    )


@jit_inline
def any_loading(st: State) -> bool:
    """Does a session wait for its copy from the host?"""
    for i in range(st.n[NUM_RUN] - st.n[NUM_DECODING]):
        if is_loading(st, st.slot[PREFILLING, i]):
            return True
    return False


@jit
def _load(st: State, s: int, most: int) -> int:
    block_size = st.n[BLOCK_SIZE]
    block = st.slot[COMPUTED, s] // block_size
    moved = min(most, st.slot[HOST_HI, s] - block)
    st.slot[LOADED, s] += (block + moved) * block_size - st.slot[COMPUTED, s]
    st.slot[COMPUTED, s] = (block + moved) * block_size
    st.n[BLOCKS_IN] += moved
    log_row(st, LOG_LOAD, st.slot[SID, s], moved)
    return moved


@jit
def _copy_out(st: State, s: int, most: int) -> int:
    # Up over the gap to the newest full block, then down; see docs/scheduler.md.
    top = min(st.slot[DEV, s], st.slot[VALID, s] // st.n[BLOCK_SIZE])
    if st.slot[HOST_HI, s] <= st.slot[HOST_LO, s]:
        st.slot[HOST_LO, s] = top
        st.slot[HOST_HI, s] = top
    floor = st.slot[KEEP, s] if st.slot[JOB, s] == SWAP_OUT else st.slot[JOB_FLOOR, s]
    up = min(most, max(0, top - st.slot[HOST_HI, s]))
    down = min(most - up, max(0, st.slot[HOST_LO, s] - floor))
    moved = min(up + down, st.slot[HOST_RESERVED, s])
    up = min(up, moved)
    down = moved - up
    st.slot[HOST_HI, s] += up
    st.slot[HOST_LO, s] -= down
    st.slot[HOST_RESERVED, s] -= moved
    st.n[BLOCKS_OUT] += moved
    log_row(st, LOG_COPY_OUT, st.slot[SID, s], moved)
    if st.slot[JOB, s] == SWAP_OUT:
        release_copied(st, s)
    elif st.slot[HOST_RESERVED, s] == 0:
        end_job(st, s)
    return moved


@jit_inline
def _next_out_job(st: State) -> int:
    job = st.n[SWAP_OUT_FIRST]
    return job if job >= 0 else st.n[WRITE_THROUGH_FIRST]


@jit_inline
def _run_in(st: State, dt: float) -> int:
    moved = 0
    loading = 0.0
    num_loading = 0
    for i in range(st.n[NUM_RUN] - st.n[NUM_DECODING]):
        s = st.slot[PREFILLING, i]
        if is_loading(st, s):
            num_loading += 1
            loading += st.real[WEIGHT, s]
    if num_loading == 0:
        st.n[IN_IDLE] = 1
        return 0
    st.f[COST_LOADING] += loading * dt
    if st.n[IN_IDLE] == 1:
        st.n[IN_IDLE] = 0
        st.f[IN_CREDIT] = -st.f[LATENCY_S] / st.f[IN_BLOCK_S]
    st.f[IN_CREDIT] += dt / st.f[IN_BLOCK_S]
    for i in range(st.n[NUM_RUN] - st.n[NUM_DECODING]):
        s = st.slot[PREFILLING, i]
        if st.f[IN_CREDIT] < 1.0:
            break
        if is_loading(st, s):
            blocks = _load(st, s, int(st.f[IN_CREDIT]))
            st.f[IN_CREDIT] -= blocks
            moved += blocks
            if not is_loading(st, s):
                num_loading -= 1
    if num_loading == 0:
        st.n[IN_IDLE] = 1
    return moved


@jit_inline
def _run_out(st: State, dt: float) -> int:
    moved = 0
    job = _next_out_job(st)
    if job < 0:
        st.n[OUT_IDLE] = 1
        return 0
    if st.n[OUT_IDLE] == 1:
        st.n[OUT_IDLE] = 0
        st.f[OUT_CREDIT] = -st.f[LATENCY_S] / st.f[OUT_BLOCK_S]
    st.f[OUT_CREDIT] += dt / st.f[OUT_BLOCK_S]
    while job >= 0 and st.f[OUT_CREDIT] >= 1.0:
        blocks = _copy_out(st, job, int(st.f[OUT_CREDIT]))
        st.f[OUT_CREDIT] -= blocks
        moved += blocks
        job = _next_out_job(st)
    if job < 0:
        st.n[OUT_IDLE] = 1
    return moved


@jit_inline
def run_links(st: State, dt: float) -> int:
    """Move blocks both ways for ``dt`` seconds, overlapped with the iteration; how many."""
    blocks_in = 0
    if st.n[NUM_RUN] > st.n[NUM_DECODING]:
        blocks_in = _run_in(st, dt)
    else:
        st.n[IN_IDLE] = 1
    out_s = dt
    if st.n[SHARED_LINK] == 1:
        out_s = max(0.0, dt - blocks_in * st.f[IN_BLOCK_S])
    return blocks_in + _run_out(st, out_s)


@jit
def run_links_at_once(st: State, dt: float) -> float:
    """Do all loading and swapping out now, without overlap; returns the time it takes."""
    blocks_in = 0
    for i in range(st.n[NUM_RUN] - st.n[NUM_DECODING]):
        s = st.slot[PREFILLING, i]
        if is_loading(st, s):
            blocks_in += _load(st, s, st.slot[HOST_HI, s])
    blocks_out = 0
    while st.n[NUM_SWAP_OUT] > 0:
        blocks_out += _copy_out(st, st.n[SWAP_OUT_FIRST], st.n[NUM_DEVICE])
    _run_out(st, dt)
    return blocks_in * st.f[IN_BLOCK_S] + blocks_out * st.f[OUT_BLOCK_S]
