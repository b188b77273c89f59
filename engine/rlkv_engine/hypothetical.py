"""Facts of decisions that are not open: what a policy would be asked if memory were short now.

An engine that cannot wait for answers asks ahead. It writes the rows that offers to a new session,
to a returning one and to a decoding one would have for the first candidates, without opening them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import facts as F
from rlkv_engine.jit import jit
from rlkv_engine.observe import candidate_facts, offer_facts, requester_wait_s
from rlkv_engine.rule import victim_score
from rlkv_engine.sessions import blocks_for
from rlkv_engine.state import (
    CALLED,
    DEV,
    FIRST_SESSION,
    FREE,
    GROW,
    INPUT_TOKENS,
    KEEP,
    NEW,
    NEXT_ARRIVAL,
    NEXT_NEW,
    NOBODY,
    NUM_PAUSED,
    NUM_QUEUE,
    ONE,
    PAUSED_FIRM,
    PAUSED_LIST,
    PENDING,
    QUEUE,
    RECLAIMABLE,
    RESUME,
    SID,
    SLACK,
    TARGET,
    ZERO,
    State,
)

#: Kinds of requesters that rows are written for.
NUM_KINDS = 3


class Candidates(NamedTuple):
    """Scratch: the paused sessions that would be offered first."""

    slot: NDArray[np.int64]  # [most]
    score: NDArray[np.float64]  # [most]


def make_candidates(most: int) -> Candidates:
    """Room for so many candidates."""
    return Candidates(np.zeros(most, np.int64), np.zeros(most))


@jit
def copy_row(row: NDArray[np.float64], into: NDArray[np.float64]) -> None:
    """A row of facts (assigning one would allocate)."""
    for i in range(F.NUM_FACTS):
        into[i] = row[i]


@jit
def first_candidates(st: State, into: Candidates) -> int:
    """The sessions that an offer would ask about first, in its order; how many there are."""
    num = 0
    for i in range(st.n[NUM_PAUSED]):
        s = st.slot[PAUSED_LIST, i]
        if st.slot[KEEP, s] == 0 or st.slot[CALLED, s] == 0:
            continue
        score = victim_score(st, s)
        place = num
        while place > 0 and (
            score > into.score[place - 1]
            or (
                score == into.score[place - 1]
                and st.slot[SID, s] > st.slot[SID, into.slot[place - 1]]
            )
        ):
            place -= 1
        if place == into.slot.shape[0]:
            continue
        num = min(num + 1, into.slot.shape[0])
        for k in range(num - 1, place, -1):
            into.slot[k] = into.slot[k - 1]
            into.score[k] = into.score[k - 1]
        into.slot[place] = s
        into.score[place] = score
    return num


@jit
def _usual_need(st: State, kind: int, usual_need: NDArray[np.int64]) -> int:
    # What the last of its kind needed; before there was one, what a paused session holds.
    if usual_need[kind] > 0:
        return usual_need[kind]
    return 1 + st.n[PAUSED_FIRM] // max(1, st.n[NUM_PAUSED])


@jit
def write_offer(
    st: State,
    kind: int,
    usual_need: NDArray[np.int64],
    candidates: Candidates,
    num_candidates: int,
    rows: NDArray[np.float64],
) -> None:
    """The rows of an offer to a kind of requester: the head of its queue, or a usual one.

    Args:
        st: one engine.
        kind: NEW, RESUME or GROW.
        usual_need: by kind, blocks that a requester needs where none waits; ``[4]``.
        candidates: who would be asked about.
        num_candidates: how many of them.
        rows: facts of each, ``[num_candidates or more, NUM_FACTS]``.
    """
    own_soft, wait_s = ZERO, 0.0
    if kind == GROW:
        need = ONE
    elif kind == RESUME and st.n[NUM_QUEUE] > 0:
        head = st.slot[QUEUE, 0]
        need = blocks_for(st, st.slot[TARGET, head]) - st.slot[DEV, head]
        own_soft = st.slot[DEV, head] - st.slot[KEEP, head]
        wait_s = requester_wait_s(st, kind, head)
    elif kind == NEW and st.n[NEXT_NEW] < st.n[NEXT_ARRIVAL]:
        first_turn = st.first_turn[st.n[FIRST_SESSION] + st.n[NEXT_NEW]]
        need = blocks_for(st, st.turns[INPUT_TOKENS, first_turn])
        wait_s = requester_wait_s(st, kind, NOBODY)
    else:
        need = _usual_need(st, kind, usual_need)
    need = max(need, ONE)
    short = need + st.n[SLACK] - (st.n[FREE] + st.n[RECLAIMABLE] - own_soft + st.n[PENDING])
    # Offers open when less is there than is needed: if there is more, it will be gone by then.
    spare = max(ZERO, st.n[SLACK] + 1 - short)
    short += spare
    facts = rows[0]
    offer_facts(st, kind, need, short, wait_s, facts)
    for of_memory in (F.FREE_BLOCKS, F.RECLAIMABLE_BLOCKS, F.PENDING_BLOCKS):
        gone = min(float(spare), facts[of_memory])
        facts[of_memory] -= gone
        spare -= int(gone)
    for rank in range(num_candidates):
        if rank > 0:
            copy_row(facts, rows[rank])
        s = candidates.slot[rank]
        candidate_facts(st, kind, s, min(short, st.slot[KEEP, s]), rank, rows[rank])
