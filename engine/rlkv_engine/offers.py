"""Memory is short: who is asked, what the answers do (docs/scheduler.md, sections 4 to 6)."""

from __future__ import annotations

import math

from rlkv_engine.estimates import remaining_s
from rlkv_engine.jit import jit, jit_inline
from rlkv_engine.memory import end_job, has_host_room, soften, swap_out, write_through
from rlkv_engine.observe import take_snapshot
from rlkv_engine.rule import CALL_LEASE, CALL_VERB, ESTIMATE, forced_verb, victim_score
from rlkv_engine.sessions import arrival_s, longest_remaining_s, preempt
from rlkv_engine.state import (
    ASKED,
    BLOCKED_GROW,
    BLOCKED_NEW,
    BLOCKED_RESUME,
    CALL,
    CALLED,
    CHANGES,
    DECISION,
    DECISION_POINT,
    DECISION_SLOT,
    DECISION_TAKE,
    DISCARD,
    FREE,
    GROW,
    HOST_FREE,
    ITERATION,
    JOB,
    KEEP,
    KEY,
    LEASE_END,
    MEAN_PAUSE_S,
    NEW,
    NEW_REFUSED,
    NEXT_LEASE,
    NEXT_NEW,
    NO_JOB,
    NOBODY,
    NOW,
    NUM_CALLS,
    NUM_DECISIONS,
    NUM_FORCED,
    NUM_PAUSED,
    NUM_QUEUE,
    NUM_RUN,
    OFFER_ID,
    OFFER_KIND,
    OFFER_NEED,
    OFFER_RANK,
    OFFER_SHORT,
    OFFER_SKIPPED,
    OFFER_SLOT,
    PAUSED_FIRM,
    PAUSED_LIST,
    PENDING,
    PHASE,
    PREFILL,
    PRESERVE,
    QUEUE,
    RECLAIMABLE,
    REFUSED_SCORE,
    RESUME,
    RETRY_AT,
    RULE,
    RUN,
    SID,
    SLACK,
    STALLED,
    SWAP,
    SWAP_NOW,
    TOOL,
    TURN,
    ZERO,
    State,
    before,
)

# What `obtain` says.
BLOCKED, READY, ASKING = 0, 1, 2
#: Candidates that may be kept in one offer before the rule takes over: without a bound, a policy
#: that keeps everybody is asked about every paused session in every iteration.
MAX_SKIPPED = 8


@jit_inline
def _blocked_index(kind: int) -> int:
    if kind == NEW:
        return BLOCKED_NEW
    return BLOCKED_RESUME if kind == RESUME else BLOCKED_GROW


@jit
def _best_candidate(st: State, skipped: bool) -> int:
    # The paused session with firm blocks and the largest score, among those asked (skipped) or
    # not asked yet in this offer; ties go to the larger sid. -1: none.
    best = NOBODY
    if st.n[PAUSED_FIRM] == 0:
        return best
    best_score = 0.0
    for i in range(st.n[NUM_PAUSED]):
        s = st.slot[PAUSED_LIST, i]
        if (
            st.slot[KEEP, s] == 0
            or (st.slot[ASKED, s] == st.n[OFFER_ID]) != skipped
            or st.slot[CALLED, s] == 0
        ):
            continue
        score = victim_score(st, s)
        if (
            best < 0
            or score > best_score
            or (score == best_score and st.slot[SID, s] > st.slot[SID, best])
        ):
            best = s
            best_score = score
    return best


@jit
def take_blocks(st: State, s: int, verb: int, take: int) -> None:
    """SWAP or DISCARD ``take`` blocks from the tail of a paused session."""
    if verb == SWAP and has_host_room(st, s, take):
        swap_out(st, s, take)
        return
    if st.slot[JOB, s] != NO_JOB:
        end_job(st, s)
    soften(st, s, st.slot[KEEP, s] - take)


@jit
def _youngest_holder(st: State, requester: int) -> int:
    if requester < 0:
        key, sid = arrival_s(st, st.n[NEXT_NEW]), st.n[NEXT_NEW]
    else:
        key, sid = st.real[KEY, requester], st.slot[SID, requester]
    youngest = NOBODY
    for i in range(st.n[NUM_RUN] + st.n[NUM_QUEUE]):
        s = st.slot[RUN, i] if i < st.n[NUM_RUN] else st.slot[QUEUE, i - st.n[NUM_RUN]]
        if (
            st.slot[KEEP, s] > 0
            and (key < st.real[KEY, s] or (key == st.real[KEY, s] and sid < st.slot[SID, s]))
            and (youngest < 0 or before(st, youngest, s))
        ):
            youngest = s
    return youngest


@jit_inline
def _nothing_can_run(st: State) -> bool:
    for i in range(st.n[NUM_RUN]):
        s = st.slot[RUN, i]
        if st.slot[PHASE, s] == PREFILL or st.slot[STALLED, s] != st.n[ITERATION]:
            return False
    return st.n[PENDING] == 0


@jit_inline
def _available(st: State, own_soft: int) -> int:
    return st.n[FREE] + st.n[RECLAIMABLE] - own_soft


@jit_inline
def _force(st: State, kind: int, requester: int, need: int, own_soft: int) -> None:
    # Nobody is left to ask: skipped sessions by the rule, then preemption.
    while kind != NEW and need > _available(st, own_soft) + st.n[PENDING]:
        s = _best_candidate(st, True)
        if s < 0:
            s = _best_candidate(st, False)
        if s < 0:
            break
        take = min(need - _available(st, own_soft) - st.n[PENDING], st.slot[KEEP, s])
        take_blocks(st, s, forced_verb(st, kind, s), take)
        st.n[NUM_FORCED] += 1
    while need > _available(st, own_soft) + st.n[PENDING]:
        if kind != GROW and not _nothing_can_run(st):
            break
        s = _youngest_holder(st, requester)
        if s < 0:
            break
        preempt(st, s)


@jit_inline
def obtain(st: State, kind: int, requester: int, need: int, own_soft: int) -> int:
    """Can ``need`` blocks be had for a requester (slot, or -1 for NEW) now?

    READY: yes, allocate them. BLOCKED: not now. ASKING: a decision is open, answer it and ask
    again. ``own_soft`` reclaimable blocks are the requester's own and do not count as available.
    """
    if st.n[OFFER_KIND] == 0:
        if need <= _available(st, own_soft):
            return READY
        if need <= _available(st, own_soft) + st.n[PENDING]:
            return BLOCKED
        if kind == NEW and st.n[NEW_REFUSED] == 1:
            return BLOCKED
        if st.n[_blocked_index(kind)] == st.n[CHANGES]:
            return BLOCKED
        st.n[OFFER_KIND] = kind
        st.n[OFFER_SLOT] = requester
        st.n[OFFER_NEED] = need
        st.n[OFFER_ID] += 1
        st.n[OFFER_RANK] = 0
        st.n[OFFER_SKIPPED] = 0
        st.n[OFFER_SHORT] = need + st.n[SLACK] - _available(st, own_soft) - st.n[PENDING]
    return _go_on_with_offer(st, kind, requester, need, own_soft)


@jit
def _go_on_with_offer(st: State, kind: int, requester: int, need: int, own_soft: int) -> int:
    if st.n[OFFER_SHORT] > 0:
        s = _best_candidate(st, False) if st.n[OFFER_SKIPPED] < MAX_SKIPPED else NOBODY
        if s >= 0:
            if st.n[OFFER_RANK] == 0:
                take_snapshot(st)
            _ask(st, kind, s, min(st.n[OFFER_SHORT], st.slot[KEEP, s]))
            return ASKING
        _force(st, kind, requester, need, own_soft)
    st.n[OFFER_KIND] = 0
    if need <= _available(st, own_soft):
        return READY
    st.n[_blocked_index(kind)] = st.n[CHANGES]
    return BLOCKED


@jit_inline
def _ask(st: State, point: int, s: int, take: int) -> None:
    st.n[DECISION] = 1
    st.n[DECISION_POINT] = point
    st.n[DECISION_SLOT] = s
    st.n[DECISION_TAKE] = take
    st.n[NUM_DECISIONS] += 1


@jit_inline
def ask_call(st: State) -> None:
    """Open the CALL decision of the paused session that comes first."""
    first = NOBODY
    for i in range(st.n[NUM_PAUSED]):
        s = st.slot[PAUSED_LIST, i]
        if st.slot[CALLED, s] == 0 and (first < 0 or before(st, s, first)):
            first = s
    _ask(st, CALL, first, st.slot[KEEP, first])


@jit
def answer(st: State, verb: int, lease_s: float) -> None:
    """Carry out a verb for the open decision; an impossible SWAP counts as DISCARD."""
    s = st.n[DECISION_SLOT]
    st.n[DECISION] = 0
    if st.n[DECISION_POINT] == CALL:
        _answer_call(st, s, verb, lease_s)
        return
    st.slot[ASKED, s] = st.n[OFFER_ID]
    st.n[OFFER_RANK] += 1
    if verb != PRESERVE:
        st.n[OFFER_SHORT] -= st.n[DECISION_TAKE]
        take_blocks(st, s, verb, st.n[DECISION_TAKE])
    elif st.n[OFFER_KIND] != NEW:
        st.n[OFFER_SKIPPED] += 1
    else:
        st.n[NEW_REFUSED] = 1
        st.f[RETRY_AT] = st.f[NOW] + max(0.5, 0.1 * st.f[MEAN_PAUSE_S])
        st.f[REFUSED_SCORE] = longest_remaining_s(st)
        st.n[OFFER_KIND] = 0


@jit
def _answer_call(st: State, s: int, verb: int, lease_s: float) -> None:
    st.slot[CALLED, s] = 1
    st.n[NUM_CALLS] -= 1
    if verb == SWAP:
        if st.n[HOST_FREE] > 0:
            write_through(st, s)
    elif verb == SWAP_NOW and st.slot[KEEP, s] > 0:
        take_blocks(st, s, SWAP, st.slot[KEEP, s])
    elif verb == DISCARD:
        soften(st, s, ZERO)
    if verb == PRESERVE and st.f[RULE + CALL_VERB] == CALL_LEASE:
        lease_s = min(lease_s, st.lease_s[st.turns[TOOL, st.slot[TURN, s]]])
    if verb == PRESERVE and lease_s < math.inf:
        st.real[LEASE_END, s] = st.f[NOW] + lease_s
        st.f[NEXT_LEASE] = min(st.f[NEXT_LEASE], st.real[LEASE_END, s])
    if (
        st.n[NEW_REFUSED] == 1
        and remaining_s(st, s, int(st.f[RULE + ESTIMATE])) > st.f[REFUSED_SCORE]
    ):
        st.n[NEW_REFUSED] = 0
    st.n[CHANGES] += 1
