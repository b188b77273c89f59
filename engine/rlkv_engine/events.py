"""What happens at a time of its own: arrivals, returns of tools, ends of leases, retries."""

from __future__ import annotations

from rlkv_engine.jit import jit_inline
from rlkv_engine.sessions import arrival_s, arrive, end_leases, return_first
from rlkv_engine.state import (
    CHANGES,
    HEAP,
    NEW_REFUSED,
    NEXT_ARRIVAL,
    NEXT_LEASE,
    NOW,
    NUM_PAUSED,
    NUM_SESSIONS,
    RETRY_AT,
    RETURN_AT,
    State,
)


@jit_inline
def next_event_s(st: State) -> float:
    """Time of the next arrival, return, lease end or retry; infinite if there is none."""
    event = st.f[NEXT_LEASE]
    if st.n[NEXT_ARRIVAL] < st.n[NUM_SESSIONS]:
        event = min(event, arrival_s(st, st.n[NEXT_ARRIVAL]))
    if st.n[NUM_PAUSED] > 0:
        event = min(event, st.real[RETURN_AT, st.slot[HEAP, 0]])
    if st.n[NEW_REFUSED] == 1:
        event = min(event, st.f[RETRY_AT])
    return event


@jit_inline
def process_events(st: State) -> None:
    """Everything that is due by now."""
    now = st.f[NOW]
    while st.n[NEXT_ARRIVAL] < st.n[NUM_SESSIONS] and arrival_s(st, st.n[NEXT_ARRIVAL]) <= now:
        arrive(st)
    while st.n[NUM_PAUSED] > 0 and st.real[RETURN_AT, st.slot[HEAP, 0]] <= now:
        return_first(st)
    if st.f[NEXT_LEASE] <= now:
        end_leases(st)
    if st.n[NEW_REFUSED] == 1 and st.f[RETRY_AT] <= now:
        st.n[NEW_REFUSED] = 0
        st.n[CHANGES] += 1
