"""Answers that were asked for ahead, and what the loop does with them when a decision is open.

By decision point and slot the latest verdict about the pause that the slot is in. An answer that is
too old, or of another pause, is none; then the engine's own policy answers, and it is counted why.
A CALL is answered by that policy at once; when the answer about it comes it is revised.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import loop
from rlkv_engine.asked import plan_on
from rlkv_engine.facts import NUM_FACTS
from rlkv_engine.hypothetical import copy_row
from rlkv_engine.jit import jit
from rlkv_engine.memory import end_job, soften, write_through
from rlkv_engine.observe import take_facts
from rlkv_engine.offers import answer
from rlkv_engine.rule import rule_verb
from rlkv_engine.state import (
    CALL,
    CALLED,
    CHANGES,
    DECISION_POINT,
    DECISION_SLOT,
    DEV,
    DISCARD,
    FACTS,
    HOST_FREE,
    ITERATION,
    JOB,
    KEEP,
    LEASE_END,
    NEXT_LEASE,
    NO_JOB,
    NOW,
    OFFER_NEED,
    OFFER_RANK,
    PAUSE_START,
    PAUSED,
    PHASE,
    PRESERVE,
    SWAP,
    SWAP_NOW,
    SWAP_OUT,
    ZERO,
    State,
    engine_view,
)

NUM_POINTS = 4
#: Calls of one iteration that are asked about; of more, the engine's own policy decides.
MAX_CALLS = 256
#: Why the engine's own policy decided, among the reasons of a verdict (``schema.Reason``).
LATE, NOT_ASKED, STALE = 5, 10, 11
NUM_REASONS = 13
#: Whoever gave a verdict with a reason from here on was not the one who was asked.
FIRST_LOCAL_REASON = LATE
NO_VERB = -1


class Answers(NamedTuple):
    """What was answered, and what is still to be asked."""

    verb: NDArray[np.int64]  # [NUM_POINTS, num_slots], or NO_VERB
    reason: NDArray[np.int64]  # [NUM_POINTS, num_slots], of the verdict
    asked_at: NDArray[np.int64]  # [NUM_POINTS, num_slots], the iteration that its facts are of
    pause_start: NDArray[np.float64]  # [NUM_POINTS, num_slots], of the pause asked about, or NaN
    applied: NDArray[np.int64]  # [num_slots], verb of the last decision about the slot
    counts: NDArray[np.int64]  # [NUM_POINTS, NUM_REASONS], decisions by who decided and why
    usual_need: NDArray[np.int64]  # [NUM_POINTS], blocks that the last requester needed
    num_calls: NDArray[np.int64]  # [1], CALLs that are to be asked about
    call_slot: NDArray[np.int64]  # [MAX_CALLS]
    call_facts: NDArray[np.float64]  # [MAX_CALLS, NUM_FACTS]


def make_answers(num_slots: int) -> Answers:
    """No answers yet."""
    shape = (NUM_POINTS, num_slots)
    return Answers(
        verb=np.full(shape, NO_VERB, np.int64),
        reason=np.full(shape, NOT_ASKED, np.int64),
        asked_at=np.zeros(shape, np.int64),
        pause_start=np.full(shape, np.nan),
        applied=np.full(num_slots, NO_VERB, np.int64),
        counts=np.zeros((NUM_POINTS, NUM_REASONS), np.int64),
        usual_need=np.zeros(NUM_POINTS, np.int64),
        num_calls=np.zeros(1, np.int64),
        call_slot=np.zeros(MAX_CALLS, np.int64),
        call_facts=np.zeros((MAX_CALLS, NUM_FACTS)),
    )


def grow_answers(answers: Answers, num_slots: int) -> Answers:
    """The same answers, for an engine that has more slots now."""
    grown = make_answers(num_slots)
    old = len(answers.applied)
    by_slot = ("verb", "reason", "asked_at", "pause_start", "applied")
    for name in by_slot:
        getattr(grown, name)[..., :old] = getattr(answers, name)
    return answers._replace(**{name: getattr(grown, name) for name in by_slot})


@jit
def _answer_at_hand(st: State, answers: Answers, max_age: int) -> int:
    # The verdict for the open REVISIT, or NO_VERB; counted.
    point, s = st.n[DECISION_POINT], st.n[DECISION_SLOT]
    if st.n[OFFER_RANK] == 0:
        answers.usual_need[point] = st.n[OFFER_NEED]
    verb, reason = NO_VERB, NOT_ASKED
    if answers.pause_start[point, s] == st.real[PAUSE_START, s]:
        verb, reason = answers.verb[point, s], answers.reason[point, s]
        if verb != NO_VERB and st.n[ITERATION] - answers.asked_at[point, s] > max_age:
            verb, reason = NO_VERB, STALE
    answers.counts[point, reason] += 1
    return verb


@jit
def _note_call(st: State, answers: Answers) -> None:
    # It is to be asked about; until there is an answer it counts as late.
    s = st.n[DECISION_SLOT]
    num = answers.num_calls[0]
    if num == MAX_CALLS:
        answers.counts[CALL, NOT_ASKED] += 1
        return
    answers.counts[CALL, LATE] += 1
    take_facts(st)
    answers.call_slot[num] = s
    copy_row(st.f[FACTS : FACTS + NUM_FACTS], answers.call_facts[num])
    answers.num_calls[0] = num + 1


@jit
def plan_with_answers(
    stack: State, e: int, policy: loop.Policy, answers: Answers, max_age: int
) -> int:
    """Like ``plan_on``: answers at hand decide, ``policy`` where there is none; BATCH or FULL."""
    st = engine_view(stack, e)
    while True:
        state = plan_on(st)
        if state != loop.DECIDE:
            return state
        s = st.n[DECISION_SLOT]
        verb = NO_VERB
        if st.n[DECISION_POINT] == CALL:
            _note_call(st, answers)
        else:
            verb = _answer_at_hand(st, answers, max_age)
            if verb == SWAP and rule_verb(st, st.n[DECISION_POINT], s) == SWAP_NOW:
                verb = SWAP_NOW
        if verb == NO_VERB:
            verb = loop.policy_verb(st, policy)
        answers.applied[s] = verb
        answer(st, verb, math.inf)


@jit
def store_answers(
    stack: State,
    e: int,
    answers: Answers,
    points: NDArray[np.int64],
    slots: NDArray[np.int64],
    pause_start: NDArray[np.float64],
    asked_at: int,
    max_age: int,
    verbs: NDArray[np.int8],
    reasons: NDArray[np.int8],
    lease_s: NDArray[np.float32],
) -> None:
    """Verdicts have come about rows that were asked in iteration ``asked_at``, all ``[n]``.

    Those about pauses that are over are dropped; those about a CALL are carried out at once, where
    nothing of the session has been taken since.
    """
    st = engine_view(stack, e)
    for i in range(points.shape[0]):
        point, s = points[i], slots[i]
        if st.slot[PHASE, s] != PAUSED or st.real[PAUSE_START, s] != pause_start[i]:
            if point == CALL:
                answers.counts[CALL, LATE] -= 1
                local = reasons[i] >= FIRST_LOCAL_REASON
                answers.counts[CALL, reasons[i] if local else STALE] += 1
            continue
        same_pause = answers.pause_start[point, s] == pause_start[i]
        answered = reasons[i] < FIRST_LOCAL_REASON
        if point == CALL:
            in_time = answered and st.n[ITERATION] - asked_at <= max_age
            if in_time and _revise_call(st, answers, s, verbs[i], lease_s[i]):
                answers.counts[CALL, reasons[i]] += 1
            else:
                answers.counts[CALL, STALE if answered else reasons[i]] += 1
            answers.counts[CALL, LATE] -= 1
        elif (
            same_pause
            and answers.verb[point, s] != NO_VERB
            and (not answered or answers.asked_at[point, s] > asked_at)
        ):
            continue  # what is at hand is better
        answers.pause_start[point, s] = pause_start[i]
        answers.asked_at[point, s] = asked_at
        answers.reason[point, s] = reasons[i]
        answers.verb[point, s] = verbs[i] if answered else NO_VERB


@jit
def _revise_call(st: State, answers: Answers, s: int, verb: int, lease_s: float) -> bool:
    # The answer about a CALL that another verb was carried out for; False: it is too late.
    done = answers.applied[s]
    same = verb == done or (verb == SWAP and done == SWAP_NOW)
    if not same:
        if st.slot[CALLED, s] == 0 or st.slot[KEEP, s] < st.slot[DEV, s]:
            return False
        if st.slot[JOB, s] == SWAP_OUT or st.slot[KEEP, s] == 0:
            return False
        if st.slot[JOB, s] != NO_JOB:
            end_job(st, s)  # what it was written through stays on the host
        if verb == SWAP and st.n[HOST_FREE] > 0:
            write_through(st, s)
        elif verb == DISCARD:
            soften(st, s, ZERO)
        answers.applied[s] = verb
        st.n[CHANGES] += 1
    if verb == PRESERVE and lease_s < math.inf:
        st.real[LEASE_END, s] = st.f[NOW] + lease_s
        st.f[NEXT_LEASE] = min(st.f[NEXT_LEASE], st.real[LEASE_END, s])
    return True
