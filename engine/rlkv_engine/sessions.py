"""What happens to a session: it arrives, is admitted, pauses, returns, is preempted, finishes."""

from __future__ import annotations

import math

from rlkv_engine.decoding import catch_up
from rlkv_engine.estimates import remaining_s
from rlkv_engine.jit import jit
from rlkv_engine.latency import note_end
from rlkv_engine.memory import (
    allocate,
    drop_host,
    drop_tail,
    end_job,
    harden,
    soften,
)
from rlkv_engine.rule import ESTIMATE
from rlkv_engine.slot_lists import (
    insert_sorted,
    pop_return,
    push_return,
    remove_sorted,
)
from rlkv_engine.state import (
    ACTIVE_WEIGHT,
    ARRIVAL,
    ARRIVED_AT,
    ARRIVED_S,
    ASKED,
    BLOCK_SIZE,
    CALLED,
    CHANGES,
    COMPUTED,
    COST,
    COST_QUEUED,
    DECODE,
    DEV,
    DUE,
    EMPTY,
    FINISH_S,
    FIRST_SESSION,
    FREE_SLOTS,
    GENERATED,
    HOST_FREE,
    HOST_HI,
    HOST_LO,
    HOST_RESERVED,
    INPUT_TOKENS,
    ITERATION,
    JOB,
    KEEP,
    KEY,
    KV_DECODING,
    LEASE_END,
    LET_IN_AT,
    LOADED,
    LOG_ADMIT,
    LOG_FINISH,
    LOG_PAUSE,
    LOG_PREEMPT,
    LOG_RETURN,
    NEVER,
    NEW_REFUSED,
    NEXT_ARRIVAL,
    NEXT_LEASE,
    NEXT_NEW,
    NOBODY,
    NOW,
    NUM_CALLS,
    NUM_CONCURRENT,
    NUM_DECODING,
    NUM_FINISHED,
    NUM_FREE_SLOTS,
    NUM_PAUSED,
    NUM_PREEMPTIONS,
    NUM_QUEUE,
    NUM_RUN,
    PAUSE_START,
    PAUSED,
    PAUSED_FIRM,
    PAUSED_LIST,
    PAUSED_S,
    PHASE,
    PREFILL,
    PREFILLING,
    QUEUE,
    QUEUED,
    QUEUED_WEIGHT,
    RECOMPUTED,
    REQUESTED_AT,
    REQUEUE_TO_TAIL,
    RETURN_AT,
    RULE,
    RUN,
    SESSION_WEIGHT,
    SHARED_PREFIX,
    SID,
    STALLED,
    TARGET,
    TURN,
    VALID,
    WEIGHT,
    WHERE,
    ZERO,
    State,
    log_row,
)


@jit
def arrival_s(st: State, sid: int) -> float:
    """When a session that is not admitted yet arrives; infinite: a closed loop has to let it in.

    By the end that lets in session ``sid + N`` of a loop of N, which takes the place of ``sid`` in
    the ring, ``sid + 1`` sessions have ended: ``sid`` was admitted before.
    """
    if st.n[NUM_CONCURRENT] == 0 or sid < st.n[NUM_CONCURRENT]:
        return st.sessions[ARRIVAL, st.n[FIRST_SESSION] + sid]
    if sid < st.n[NUM_CONCURRENT] + st.n[NUM_FINISHED]:
        return st.real[LET_IN_AT, sid % st.n[NUM_CONCURRENT]]
    return math.inf


@jit
def blocks_for(st: State, tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return (tokens + st.n[BLOCK_SIZE] - 1) // st.n[BLOCK_SIZE]


@jit
def arrive(st: State) -> None:
    """The next session joins the queue of new ones; its waiting counts from its stamp on."""
    sid = st.n[NEXT_ARRIVAL]
    st.n[NEXT_ARRIVAL] += 1
    weight = st.sessions[SESSION_WEIGHT, st.n[FIRST_SESSION] + sid]
    late = st.f[NOW] - arrival_s(st, sid)
    st.f[ACTIVE_WEIGHT] += weight
    st.f[QUEUED_WEIGHT] += weight
    st.f[COST] += weight * late
    st.f[COST_QUEUED] += weight * late


@jit
def admit_new(st: State, need: int) -> None:
    """The first session of the queue of new ones becomes a slot in PREFILL."""
    sid = st.n[NEXT_NEW]
    st.n[NEXT_NEW] += 1
    st.n[NEW_REFUSED] = 0
    st.n[NUM_FREE_SLOTS] -= 1
    s = st.slot[FREE_SLOTS, st.n[NUM_FREE_SLOTS]]
    session = st.n[FIRST_SESSION] + sid
    st.slot[SID, s] = sid
    st.slot[TURN, s] = st.first_turn[session]
    st.slot[COMPUTED, s] = 0
    st.slot[VALID, s] = 0
    st.slot[GENERATED, s] = 0
    st.slot[TARGET, s] = st.turns[INPUT_TOKENS, st.slot[TURN, s]]
    st.slot[DEV, s] = 0
    st.slot[KEEP, s] = 0
    st.slot[HOST_LO, s] = 0
    st.slot[HOST_HI, s] = 0
    st.slot[HOST_RESERVED, s] = 0
    st.slot[JOB, s] = 0
    st.slot[ASKED, s] = 0
    st.slot[STALLED, s] = 0
    st.slot[CALLED, s] = 0
    st.slot[LOADED, s] = 0
    st.slot[RECOMPUTED, s] = 0
    st.real[ARRIVED_AT, s] = arrival_s(st, sid)
    st.real[KEY, s] = st.real[ARRIVED_AT, s]
    st.real[REQUESTED_AT, s] = st.real[ARRIVED_AT, s]
    st.real[LEASE_END, s] = math.inf
    st.real[WEIGHT, s] = st.sessions[SESSION_WEIGHT, session]
    st.real[PAUSED_S, s] = 0.0
    _start_prefill(st, s, need)


@jit
def admit_queued(st: State, s: int, need: int) -> None:
    """A returned or preempted session gets its blocks and goes on."""
    remove_sorted(st, st.slot[QUEUE], st.n[NUM_QUEUE], s)
    st.n[NUM_QUEUE] -= 1
    harden(st, s)
    _start_prefill(st, s, need)


@jit
def _start_prefill(st: State, s: int, need: int) -> None:
    allocate(st, need)
    st.slot[DEV, s] += need
    st.slot[KEEP, s] = st.slot[DEV, s]
    st.slot[PHASE, s] = PREFILL
    st.slot[DUE, s] = NEVER
    st.f[QUEUED_WEIGHT] -= st.real[WEIGHT, s]
    insert_sorted(st, st.slot[PREFILLING], st.n[NUM_RUN] - st.n[NUM_DECODING], s)
    insert_sorted(st, st.slot[RUN], st.n[NUM_RUN], s)
    st.n[NUM_RUN] += 1
    log_row(st, LOG_ADMIT, st.slot[SID, s], need)


@jit
def leave_run(st: State, s: int) -> None:
    """A session in PREFILL or DECODE runs no longer."""
    if st.slot[PHASE, s] == DECODE:
        st.n[NUM_DECODING] -= 1
        st.n[KV_DECODING] -= st.slot[COMPUTED, s]
    else:
        remove_sorted(st, st.slot[PREFILLING], st.n[NUM_RUN] - st.n[NUM_DECODING], s)
    remove_sorted(st, st.slot[RUN], st.n[NUM_RUN], s)
    st.n[NUM_RUN] -= 1


@jit
def start_decode(st: State, s: int) -> None:
    """The prompt is computed and the first token emitted."""
    remove_sorted(st, st.slot[PREFILLING], st.n[NUM_RUN] - st.n[NUM_DECODING], s)
    st.slot[PHASE, s] = DECODE
    st.n[NUM_DECODING] += 1
    st.n[KV_DECODING] += st.slot[COMPUTED, s]


@jit
def end_turn(st: State, s: int) -> None:
    """The turn's last token is out: the session pauses, or finishes with its last turn."""
    session = st.n[FIRST_SESSION] + st.slot[SID, s]
    leave_run(st, s)
    st.f[ACTIVE_WEIGHT] -= st.real[WEIGHT, s]
    if st.slot[TURN, s] + 1 == st.first_turn[session + 1]:
        finish(st, s)
        return
    st.slot[VALID, s] = st.slot[COMPUTED, s]
    start_pause(st, s)


@jit
def start_pause(st: State, s: int) -> None:
    """A session that is on no list any more waits for its tool."""
    st.slot[PHASE, s] = PAUSED
    st.n[PAUSED_FIRM] += st.slot[KEEP, s]
    st.real[PAUSE_START, s] = st.f[NOW]
    st.real[RETURN_AT, s] = st.f[NOW] + st.pause_s[st.slot[TURN, s]]
    st.real[LEASE_END, s] = math.inf
    st.slot[CALLED, s] = 0
    st.n[NUM_CALLS] += 1
    st.slot[WHERE, s] = st.n[NUM_PAUSED]
    st.slot[PAUSED_LIST, st.n[NUM_PAUSED]] = s
    push_return(st, s)
    st.n[NUM_PAUSED] += 1
    log_row(st, LOG_PAUSE, st.slot[SID, s], st.slot[COMPUTED, s])


@jit
def finish(st: State, s: int) -> None:
    """A session that is on no list any more ends; its blocks on both tiers are free."""
    drop_tail(st, s, ZERO)
    drop_host(st, s)
    note_end(st, s)
    if st.outcome.shape[1] > 0:
        st.outcome[ARRIVED_S, st.slot[SID, s]] = st.real[ARRIVED_AT, s]
        st.outcome[FINISH_S, st.slot[SID, s]] = st.f[NOW]
    if st.n[NUM_CONCURRENT] > 0:
        # Session N + NUM_FINISHED of a loop of N is let in.
        st.real[LET_IN_AT, st.n[NUM_FINISHED] % st.n[NUM_CONCURRENT]] = st.f[NOW]
    st.n[NUM_FINISHED] += 1
    st.n[CHANGES] += 1
    st.n[NEW_REFUSED] = 0
    st.slot[PHASE, s] = EMPTY
    st.slot[FREE_SLOTS, st.n[NUM_FREE_SLOTS]] = s
    st.n[NUM_FREE_SLOTS] += 1
    log_row(st, LOG_FINISH, st.slot[SID, s], ZERO)


@jit
def leave_pause(st: State) -> int:
    """The slot that returns first is paused no longer, nothing is copied out for it any more."""
    s = pop_return(st)
    st.n[NUM_PAUSED] -= 1
    last = st.slot[PAUSED_LIST, st.n[NUM_PAUSED]]
    st.slot[PAUSED_LIST, st.slot[WHERE, s]] = last
    st.slot[WHERE, last] = st.slot[WHERE, s]
    st.n[PAUSED_FIRM] -= st.slot[KEEP, s]
    if st.slot[CALLED, s] == 0:
        st.n[NUM_CALLS] -= 1
    st.slot[PHASE, s] = QUEUED
    if st.real[LEASE_END, s] < math.inf:
        st.real[LEASE_END, s] = math.inf
        st.f[NEXT_LEASE] = math.inf
        for i in range(st.n[NUM_PAUSED]):
            lease_end = st.real[LEASE_END, st.slot[PAUSED_LIST, i]]
            st.f[NEXT_LEASE] = min(st.f[NEXT_LEASE], lease_end)
    if st.slot[JOB, s] != 0:
        end_job(st, s)
    return s


@jit
def return_first(st: State) -> None:
    """The session whose tool returns first has its next turn and waits for memory."""
    s = leave_pause(st)
    turn = st.slot[TURN, s] + 1
    st.slot[TURN, s] = turn
    st.real[PAUSED_S, s] += st.real[RETURN_AT, s] - st.real[PAUSE_START, s]
    st.slot[VALID, s] = min(
        st.slot[VALID, s], st.turns[SHARED_PREFIX, turn], st.turns[INPUT_TOKENS, turn] - 1
    )
    st.slot[COMPUTED, s] = min(st.slot[COMPUTED, s], st.slot[VALID, s])
    drop_tail(st, s, min(st.slot[DEV, s], blocks_for(st, st.slot[COMPUTED, s])))
    full = st.slot[VALID, s] // st.n[BLOCK_SIZE]
    if st.slot[HOST_HI, s] > full:
        low = min(st.slot[HOST_LO, s], full)
        st.n[HOST_FREE] += st.slot[HOST_HI, s] - st.slot[HOST_LO, s] - (full - low)
        st.slot[HOST_LO, s] = low
        st.slot[HOST_HI, s] = full
    st.slot[GENERATED, s] = 0
    st.slot[LOADED, s] = 0
    st.slot[RECOMPUTED, s] = 0
    st.slot[TARGET, s] = st.turns[INPUT_TOKENS, turn]
    st.real[REQUESTED_AT, s] = st.real[RETURN_AT, s]
    if st.n[REQUEUE_TO_TAIL] == 1:
        st.real[KEY, s] = st.real[RETURN_AT, s]
    insert_sorted(st, st.slot[QUEUE], st.n[NUM_QUEUE], s)
    st.n[NUM_QUEUE] += 1
    late = st.f[NOW] - st.real[RETURN_AT, s]
    st.f[ACTIVE_WEIGHT] += st.real[WEIGHT, s]
    st.f[QUEUED_WEIGHT] += st.real[WEIGHT, s]
    st.f[COST] += st.real[WEIGHT, s] * late
    st.f[COST_QUEUED] += st.real[WEIGHT, s] * late
    st.n[CHANGES] += 1
    log_row(st, LOG_RETURN, st.slot[SID, s], st.slot[VALID, s])


@jit
def preempt(st: State, s: int) -> None:
    """A running or queued session loses its claim on memory; its blocks become reclaimable."""
    if st.slot[PHASE, s] != QUEUED:
        if st.slot[PHASE, s] == DECODE:
            catch_up(st, s, st.n[ITERATION])
        leave_run(st, s)
        st.slot[VALID, s] = max(st.slot[VALID, s], st.slot[COMPUTED, s])
        st.slot[TARGET, s] = st.turns[INPUT_TOKENS, st.slot[TURN, s]] + st.slot[GENERATED, s]
        st.slot[PHASE, s] = QUEUED
        st.f[QUEUED_WEIGHT] += st.real[WEIGHT, s]
        insert_sorted(st, st.slot[QUEUE], st.n[NUM_QUEUE], s)
        st.n[NUM_QUEUE] += 1
        drop_tail(st, s, min(st.slot[DEV, s], blocks_for(st, st.slot[COMPUTED, s])))
    soften(st, s, ZERO)
    st.n[NUM_PREEMPTIONS] += 1
    st.n[CHANGES] += 1
    log_row(st, LOG_PREEMPT, st.slot[SID, s], ZERO)


@jit
def skip_new(st: State) -> None:
    """The first session of the queue of new ones was cancelled there."""
    st.n[NEXT_NEW] += 1
    st.n[NUM_FINISHED] += 1


@jit
def leave_queue(st: State, s: int) -> None:
    """A queued session waits no longer."""
    remove_sorted(st, st.slot[QUEUE], st.n[NUM_QUEUE], s)
    st.n[NUM_QUEUE] -= 1
    st.f[QUEUED_WEIGHT] -= st.real[WEIGHT, s]


@jit
def end_leases(st: State) -> None:
    """Sessions whose lease has ended hold nothing firmly any more."""
    while True:
        first = NOBODY
        for i in range(st.n[NUM_PAUSED]):
            s = st.slot[PAUSED_LIST, i]
            if (
                first < 0
                or st.real[LEASE_END, s] < st.real[LEASE_END, first]
                or (
                    st.real[LEASE_END, s] == st.real[LEASE_END, first]
                    and st.slot[SID, s] < st.slot[SID, first]
                )
            ):
                first = s
        if first < 0 or st.real[LEASE_END, first] > st.f[NOW]:
            st.f[NEXT_LEASE] = math.inf if first < 0 else st.real[LEASE_END, first]
            return
        st.real[LEASE_END, first] = math.inf
        if st.slot[JOB, first] != 0:
            end_job(st, first)
        soften(st, first, ZERO)
        st.n[CHANGES] += 1


@jit
def longest_remaining_s(st: State) -> float:
    """The longest expected remainder of all pauses, seconds."""
    longest = 0.0
    for i in range(st.n[NUM_PAUSED]):
        longest = max(longest, remaining_s(st, st.slot[PAUSED_LIST, i], int(st.f[RULE + ESTIMATE])))
    return longest
