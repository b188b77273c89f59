"""How long turns and sessions take: noted as they happen, in histograms."""

from __future__ import annotations

from rlkv_engine.histogram import Histogram, add_duration
from rlkv_engine.jit import jit
from rlkv_engine.state import (
    ARRIVED_AT,
    FIRST_SESSION,
    LOG_FIRST_TOKEN,
    NOW,
    OUTPUT_TOKENS,
    REQUESTED_AT,
    SID,
    TURN,
    State,
    log_row,
)

#: Upper ends of the gap buckets, seconds of pause before a turn; the last bucket is open.
GAP_BUCKETS_S = (0.1, 1.0, 10.0, 60.0)
GAP_NAMES = ("< 0.1 s", "0.1-1 s", "1-10 s", "10-60 s", "> 60 s")

# Rows of State.latency: sessions, then their first turns, then later ones by gap bucket.
SESSIONS, FIRST_TURNS, FIRST_GAP = 0, 1, 2
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


@jit
def note_end(st: State, s: int) -> None:
    """A slot's session ends now: its time without pauses, a generated token, is its latency."""
    if st.latency.shape[0] == 0:
        return
    session = st.n[FIRST_SESSION] + st.slot[SID, s]
    last = st.first_turn[session + 1] - 1
    tokens = st.turns[OUTPUT_TOKENS, last]
    pause_s = 0.0
    for turn in range(st.first_turn[session], last):
        tokens += st.turns[OUTPUT_TOKENS, turn]
        pause_s += st.pause_s[turn]
    active_s = st.f[NOW] - st.real[ARRIVED_AT, s] - pause_s
    add_duration(st.latency[SESSIONS], active_s / tokens)


def normalized_latency_s(st: State) -> Histogram:
    """(End - arrival - pauses) / generated tokens, by session that ended, of one engine."""
    return Histogram(st.latency[SESSIONS].copy())


def first_token_s(st: State) -> Histogram:
    """Arrival to first token, by session, of one engine."""
    return Histogram(st.latency[FIRST_TURNS].copy())


def resume_latency_s(st: State) -> list[Histogram]:
    """Tool return to the next token, by turn after the first: a histogram for each gap bucket."""
    return [Histogram(row.copy()) for row in st.latency[FIRST_GAP:]]
