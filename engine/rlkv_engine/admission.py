"""Who gets blocks in an iteration: decoding sessions that grow, then queued and new ones."""

from __future__ import annotations

from rlkv_engine.decoding import catch_up, set_due
from rlkv_engine.jit import jit_inline
from rlkv_engine.memory import allocate
from rlkv_engine.offers import ASKING, BLOCKED, READY, obtain
from rlkv_engine.sessions import (
    admit_new,
    admit_queued,
    arrival_s,
    blocks_for,
    preempt,
    skip_new,
)
from rlkv_engine.state import (
    DECODE,
    DEV,
    DUE,
    FIRST_SESSION,
    GROW,
    GROWN_AT,
    INPUT_TOKENS,
    ITERATION,
    KEEP,
    KEY,
    MAX_SEQS,
    NEW,
    NEXT_ARRIVAL,
    NEXT_NEW,
    NOBODY,
    NUM_DECODING,
    NUM_FREE_SLOTS,
    NUM_QUEUE,
    NUM_RUN,
    ONE,
    PENDING,
    PHASE,
    QUEUE,
    RESUME,
    RUN,
    SID,
    STALLED,
    STALLED_AT,
    TARGET,
    ZERO,
    State,
)

# What `grow` and `admit` say.
GO_ON, ASK, NO_SLOT = 0, 1, 2


@jit_inline
def grow(st: State) -> int:
    """One more block for each decoding session that has filled its last; GO_ON or ASK."""
    if st.n[GROWN_AT] == st.n[ITERATION]:
        return GO_ON
    while True:
        if _grow_once(st) == ASK:
            return ASK
        if st.n[PENDING] > 0 or not _all_stalled(st):
            st.n[GROWN_AT] = st.n[ITERATION]
            return GO_ON
        # Nothing can run any more: the youngest makes room, the others try again.
        preempt(st, st.slot[RUN, st.n[NUM_RUN] - 1])
        for i in range(st.n[NUM_RUN]):
            st.slot[STALLED, st.slot[RUN, i]] = 0


@jit_inline
def _all_stalled(st: State) -> bool:
    for i in range(st.n[NUM_RUN]):
        if st.slot[STALLED, st.slot[RUN, i]] != st.n[ITERATION]:
            return False
    return st.n[NUM_RUN] > 0


@jit_inline
def _grow_once(st: State) -> int:
    if st.n[NUM_DECODING] == 0:
        return GO_ON
    now = st.n[ITERATION]
    i = 0
    while i < st.n[NUM_RUN]:
        s = st.slot[RUN, i]
        i += 1
        # Ends of turns are behind us: what is due of a decoding session is a block.
        if st.slot[DUE, s] != now or st.slot[PHASE, s] != DECODE or st.slot[STALLED, s] == now:
            continue
        state = obtain(st, GROW, s, ONE, ZERO)
        if state == ASKING:
            return ASK
        catch_up(st, s, now)
        if state == READY:
            allocate(st, ONE)
            st.slot[DEV, s] += 1
            st.slot[KEEP, s] += 1
            set_due(st, s)
        else:
            st.slot[STALLED, s] = now
            st.n[STALLED_AT] = now
    return GO_ON


@jit_inline
def admit(st: State) -> int:
    """Queued and new sessions, by priority, until one cannot be had; GO_ON, ASK or NO_SLOT."""
    while st.n[NUM_RUN] < st.n[MAX_SEQS]:
        has_queued = st.n[NUM_QUEUE] > 0
        has_new = st.n[NEXT_NEW] < st.n[NEXT_ARRIVAL]
        if not has_queued and not has_new:
            return GO_ON
        queued_first = has_queued
        if has_queued and has_new:
            s = st.slot[QUEUE, 0]
            arrived = arrival_s(st, st.n[NEXT_NEW])
            queued_first = st.real[KEY, s] < arrived or (
                st.real[KEY, s] == arrived and st.slot[SID, s] < st.n[NEXT_NEW]
            )
        if queued_first:
            s = st.slot[QUEUE, 0]
            need = blocks_for(st, st.slot[TARGET, s]) - st.slot[DEV, s]
            state = obtain(st, RESUME, s, need, st.slot[DEV, s] - st.slot[KEEP, s])
            if state == READY:
                admit_queued(st, s, need)
        else:
            tokens = st.turns[INPUT_TOKENS, st.first_turn[st.n[FIRST_SESSION] + st.n[NEXT_NEW]]]
            if tokens == 0:
                skip_new(st)
                continue
            need = blocks_for(st, tokens)
            state = obtain(st, NEW, NOBODY, need, ZERO)
            if state == READY:
                if st.n[NUM_FREE_SLOTS] == 0:
                    return NO_SLOT
                admit_new(st, need)
        if state == ASKING:
            return ASK
        if state == BLOCKED:
            return GO_ON
    return GO_ON
