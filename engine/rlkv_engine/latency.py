"""How long turns wait for their first token: noted as it comes, in histograms."""

from __future__ import annotations

from rlkv_engine.histogram import Histogram, add_duration
from rlkv_engine.jit import jit
from rlkv_engine.state import (
    FIRST_SESSION,
    LOG_FIRST_TOKEN,
    NOW,
    REQUESTED_AT,
    SID,
    TURN,
    State,
    log_row,
)

#: Upper ends of the gap buckets, seconds of pause before a turn; the last bucket is open.
GAP_BUCKETS_S = (0.1, 1.0, 10.0, 60.0)
GAP_NAMES = ("< 0.1 s", "0.1-1 s", "1-10 s", "10-60 s", "> 60 s")

# Rows of State.latency: first turns of sessions, then later ones by gap bucket.
FIRST_TURNS, FIRST_GAP = 0, 1
NUM_LATENCIES = FIRST_GAP + len(GAP_NAMES)


@jit
def note_first_token(st: State, s: int) -> None:
    """The first token of a slot's turn is out now: arrival or tool return to here is its wait."""
    latency_s = st.f[NOW] - st.real[REQUESTED_AT, s]
    log_row(st, LOG_FIRST_TOKEN, st.slot[SID, s], latency_s)
    if st.latency.shape[0] == 0:
        return
    turn = st.slot[TURN, s]
    row = FIRST_TURNS
    if turn > st.first_turn[st.n[FIRST_SESSION] + st.slot[SID, s]]:
        row = FIRST_GAP
        for end_s in GAP_BUCKETS_S:
            if st.pause_s[turn - 1] >= end_s:
                row += 1
    add_duration(st.latency[row], latency_s)


def first_token_s(st: State) -> Histogram:
    """Arrival to first token, by session, of one engine."""
    return Histogram(st.latency[FIRST_TURNS].copy())


def resume_latency_s(st: State) -> list[Histogram]:
    """Tool return to the next token, by turn after the first: a histogram for each gap bucket."""
    return [Histogram(row.copy()) for row in st.latency[FIRST_GAP:]]
