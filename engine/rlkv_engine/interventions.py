"""What is done to a session from outside, while the engine is between two iterations.

The scheduler itself ends turns and sessions, and returns them, as its trace says (sessions.py).
"""

from __future__ import annotations

import math

from rlkv_engine.decoding import catch_up
from rlkv_engine.jit import jit
from rlkv_engine.memory import drop_host, end_job
from rlkv_engine.sessions import (
    end_turn,
    finish,
    leave_pause,
    leave_queue,
    leave_run,
    preempt,
    start_pause,
)
from rlkv_engine.slot_lists import move_up_return
from rlkv_engine.state import (
    ACTIVE_WEIGHT,
    CHANGES,
    COMPUTED,
    DECODE,
    FIRST_SESSION,
    INPUT_TOKENS,
    ITERATION,
    JOB,
    NEW_REFUSED,
    NEXT_ARRIVAL,
    NEXT_NEW,
    PAUSED,
    PHASE,
    PREFILL,
    QUEUED,
    QUEUED_WEIGHT,
    RETURN_AT,
    SESSION_WEIGHT,
    WEIGHT,
    State,
)


@jit
def pause_now(st: State, s: int) -> None:
    """The turn of a session that is not paused ends with the tokens it has emitted so far."""
    if st.slot[PHASE, s] == PREFILL:
        preempt(st, s)  # it was being recomputed
    if st.slot[PHASE, s] == QUEUED:
        leave_queue(st, s)
        st.f[ACTIVE_WEIGHT] -= st.real[WEIGHT, s]
        start_pause(st, s)
        return
    catch_up(st, s, st.n[ITERATION])
    end_turn(st, s)


@jit
def return_at(st: State, s: int, at_s: float) -> None:
    """The tool of a paused session returns then, sooner than was known."""
    st.real[RETURN_AT, s] = at_s
    move_up_return(st, s)


@jit
def cancel(st: State, s: int) -> None:
    """A session ends at once, whatever its phase; nothing of it stays on either tier."""
    phase = st.slot[PHASE, s]
    if phase == PAUSED:
        return_at(st, s, -math.inf)
        leave_pause(st)
    else:
        st.f[ACTIVE_WEIGHT] -= st.real[WEIGHT, s]
        if phase == QUEUED:
            leave_queue(st, s)
        else:
            if phase == DECODE:
                catch_up(st, s, st.n[ITERATION])
            leave_run(st, s)
    finish(st, s)


@jit
def cancel_waiting(st: State, sid: int) -> None:
    """A session ends that was never admitted: ``skip_new`` passes it over."""
    session = st.n[FIRST_SESSION] + sid
    if sid < st.n[NEXT_ARRIVAL]:
        weight = st.sessions[SESSION_WEIGHT, session]
        st.f[ACTIVE_WEIGHT] -= weight
        st.f[QUEUED_WEIGHT] -= weight
    st.sessions[SESSION_WEIGHT, session] = 0.0
    st.turns[INPUT_TOKENS, st.first_turn[session]] = 0
    if sid == st.n[NEXT_NEW]:
        st.n[NEW_REFUSED] = 0
        st.n[CHANGES] += 1


@jit
def drop_copy(st: State, s: int, computed: int) -> None:
    """A copy of a slot went wrong: the host's is dropped, ``computed`` tokens are on the device.

    What was to be swapped out is discarded instead: the room reserved was for the rest only.
    """
    if st.slot[JOB, s] != 0:
        end_job(st, s)
    drop_host(st, s)
    st.n[CHANGES] += 1
    st.slot[COMPUTED, s] = min(st.slot[COMPUTED, s], computed)
