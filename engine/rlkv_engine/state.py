"""The memory state: a structure of arrays that is the scheduler's truth.

A slot holds one session that has been admitted at least once; docs/scheduler.md defines its
fields. ``State.slot[DEV, s]`` reads: the device blocks of slot s. The fields of a slot, and the
scalars of an engine, are rows of a few arrays rather than arrays of their own because a compiled
function is passed every array it might need: with sixty of them compiling took minutes.

While it is stored a state is a stack of engines: every array but the trace's has the engine as its
leading dimension. ``engine_view(state, e)`` is engine ``e`` alone; compiled functions work on it.

Beside the trace, only ``outcome`` grows with it, and only where somebody asks for it: of a session
that is not in a slot nothing is known but its number. Its arrival is in the trace or, in a closed
loop, in a ring of as many times as there are sessions at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.jit import jit

I8 = NDArray[np.int64]
F8 = NDArray[np.float64]


# A Python integer passed to a compiled function would be compiled in, once for each value; these
# are plain 64-bit numbers instead.
def _constant(value: int) -> int:
    return cast(int, np.int64(value))


ZERO, ONE, NOBODY = (_constant(k) for k in (0, 1, -1))
#: An iteration that never comes.
NEVER = _constant(1 << 60)

# Phases of a slot.
EMPTY, QUEUED, PREFILL, DECODE, PAUSED = 0, 1, 2, 3, 4
# Copy jobs.
NO_JOB, SWAP_OUT, WRITE_THROUGH = 0, 1, 2
# Verbs. SWAP_NOW exists for rules at a CALL only: copy out and free at once.
PRESERVE, SWAP, DISCARD, SWAP_NOW = (_constant(k) for k in range(4))
# Decision points: a CALL, or a REVISIT for one of three requesters.
CALL, NEW, RESUME, GROW = (_constant(k) for k in range(4))

# Rows of State.slot (integers of a slot).
(
    PHASE,
    SID,  # index of the session in the engine's trace
    TURN,  # index of its turn in State.turns
    COMPUTED,  # in DECODE, like GENERATED, as of iteration SINCE: decoding.py
    TARGET,
    VALID,
    GENERATED,
    DEV,
    KEEP,
    HOST_LO,
    HOST_HI,
    HOST_RESERVED,
    JOB,
    JOB_FLOOR,
    ASKED,  # id of the offer in which it was asked last
    STALLED,  # iteration in which it stalled last
    CHUNK,  # prefill tokens of this iteration
    SINCE,  # DECODE: iteration at whose start COMPUTED and GENERATED held, see decoding.py
    DUE,  # iteration before which a running session has to be looked at; NEVER: nothing is planned
    CALLED,  # 1: its CALL is answered
    WHERE,  # its position in PAUSED_LIST
    LOADED,  # tokens of this turn's prompt that were copied in from the host
    RECOMPUTED,  # tokens computed again in this turn
    # Lists of slots, as long as NUM_RUN, NUM_QUEUE, NUM_PAUSED, NUM_PAUSED and NUM_FREE_SLOTS say.
    RUN,  # PREFILL and DECODE, by priority
    PREFILLING,  # those of RUN in PREFILL, by priority; NUM_RUN - NUM_DECODING of them
    QUEUE,  # QUEUED, by priority
    PAUSED_LIST,
    HEAP,  # paused slots, a heap on RETURN_AT
    FREE_SLOTS,
    SCRATCH,
    FIFO_LINKS,  # here the links of the queues start: next and previous slot of each, see fifo.py
) = range(31)

# Queues of slots, oldest first: fifo.py.
RECLAIM_QUEUE, SWAP_OUT_QUEUE, WRITE_THROUGH_QUEUE = (_constant(k) for k in range(3))
NUM_QUEUES = 3
SLOT_ROWS = FIFO_LINKS + 2 * NUM_QUEUES

# Rows of State.real (floats of a slot).
(
    KEY,
    PAUSE_START,
    RETURN_AT,
    REQUESTED_AT,  # when its current turn began to wait
    LEASE_END,
    WEIGHT,  # 1 / output tokens of the session
    PAUSED_S,  # tool time so far, finished pauses only
    ARRIVED_AT,
    # Not of the slot: in a closed loop when session ``sid`` was let in, at sid % NUM_CONCURRENT.
    LET_IN_AT,
    REAL_ROWS,
) = range(10)

# Columns of State.sessions, State.turns and State.outcome are sessions or turns; their rows:
ARRIVAL, SESSION_WEIGHT = 0, 1
INPUT_TOKENS, SHARED_PREFIX, OUTPUT_TOKENS, TOOL = 0, 1, 2, 3
ARRIVED_S, FINISH_S = 0, 1

# Indices into State.n (integers of an engine): what changes, then its configuration.
(
    NUM_RUN,  # sessions in PREFILL or DECODE
    NUM_QUEUE,
    NUM_PAUSED,
    NUM_FREE_SLOTS,
    NUM_CALLS,  # paused sessions whose CALL is not answered yet
    NUM_DECODING,
    NEXT_ARRIVAL,  # first session that has not arrived
    NEXT_NEW,  # first arrived session that was never admitted
    NUM_FINISHED,
    FREE,  # device blocks nobody holds
    RECLAIMABLE,  # soft blocks without a SWAP_OUT job
    PENDING,  # soft blocks with a SWAP_OUT job
    PAUSED_FIRM,  # firm blocks of paused sessions
    HOST_FREE,
    CHANGES,  # counts what may let a blocked requester in
    NUM_SWAP_OUT,
    NUM_WRITE_THROUGH,
    IN_IDLE,  # 1: the direction had no work last time
    OUT_IDLE,
    OFFER_KIND,  # CALL (0) when no offer is open
    OFFER_SLOT,  # the requester's slot; -1 for NEW
    OFFER_ID,
    OFFER_SHORT,
    OFFER_RANK,
    OFFER_SKIPPED,  # candidates that were asked and kept
    OFFER_NEED,
    NEW_REFUSED,
    DECISION,  # 1: waiting for a verb
    DECISION_POINT,
    DECISION_SLOT,
    DECISION_TAKE,
    ITERATION,
    NUM_DECISIONS,
    NUM_PREEMPTIONS,
    NUM_FORCED,
    COMPUTED_TOKENS,
    RECOMPUTED_TOKENS,
    BLOCKS_OUT,
    BLOCKS_IN,
    NUM_GENERATED,
    LOG_ROWS,
    KV_DECODING,  # tokens computed of all sessions in DECODE
    BLOCKED_NEW,  # CHANGES when a NEW was last turned away, likewise the next two
    BLOCKED_RESUME,
    BLOCKED_GROW,
    GROWN_AT,  # iteration whose growth is done
    REVIEWED,  # iteration of the last eager review
    STALLED_AT,  # iteration in which a decoding session stalled last
    WAS_IDLE,  # 1: the batch of the iteration before was empty
    RECLAIM_FIRST,  # ends of the queues, see fifo.py; NOBODY where one is empty
    RECLAIM_LAST,
    SWAP_OUT_FIRST,
    SWAP_OUT_LAST,
    WRITE_THROUGH_FIRST,
    WRITE_THROUGH_LAST,
    FIRST_SESSION,  # of the engine's trace in State.sessions
    NUM_SESSIONS,
    BLOCK_SIZE,
    NUM_DEVICE,
    NUM_HOST,
    MAX_SEQS,
    MAX_BATCHED,
    SHARED_LINK,
    OVERLAP_SWAP,
    CHUNKED_PREFILL,
    REQUEUE_TO_TAIL,
    REUSE_DISCARDED,
    HOST_VICTIMS,
    SLACK,
    NUM_CONCURRENT,
    ASK_CALL,  # 0: the rule answers CALLs itself
    NUM_COUNTERS,
) = range(72)

# Indices into State.f (floats of an engine): what changes, then its costs.
(
    NOW,
    IN_CREDIT,  # blocks
    OUT_CREDIT,
    NEXT_LEASE,
    RETRY_AT,
    REFUSED_SCORE,
    ACTIVE_WEIGHT,  # sum of weights of sessions in the system and not waiting for a tool
    QUEUED_WEIGHT,  # of which: waiting for memory
    COST,  # integral of ACTIVE_WEIGHT
    COST_QUEUED,  # integral of QUEUED_WEIGHT
    COST_LOADING,  # integral of the weight of loading sessions
    HELD_PAUSED,  # integral of PAUSED_FIRM, block seconds
    BUSY_S,  # time in iterations with work
    RECOMPUTE_S,  # forward time spent on recompute
    STALL_S,  # time added to iterations by copies
    BLOCKED_SINCE,  # when the head of the queue was first turned away
    ITERATION_S,
    PREFILL_TOKEN_S,
    PREFILL_TOKEN_CONTEXT_S,
    DECODE_SESSION_S,
    KV_TOKEN_S,
    OUT_BLOCK_S,
    IN_BLOCK_S,
    LATENCY_S,
    PREFILL_ITERATION_S,
    WAKE_S,
    COPY_ITERATION_S,
    COPY_BLOCK_S,
    COPY_ONLY_ITERATION_S,
    MEAN_PAUSE_S,
    RULE,  # here the rule starts, see rule.py
) = range(31)
#: Here the offer's part of an observation starts, see observe.py.
SNAPSHOT = RULE + 32
#: Scratch of callers that sample from a policy: three numbers.
SPARE = SNAPSHOT + 32
#: Here the facts of the open decision start, see facts.py.
FACTS = SPARE + 4
NUM_FLOATS = FACTS + 40


class State(NamedTuple):
    """Everything one engine (or a stack of them) knows; see the module docstring."""

    slot: I8  # [SLOT_ROWS, num_slots]
    real: F8  # [REAL_ROWS, num_slots]
    n: I8  # [NUM_COUNTERS]
    f: F8  # [NUM_FLOATS]
    outcome: F8  # [2, num_sessions]: ARRIVED_S, FINISH_S of those that ended; or [2, 0]
    latency: F8  # [NUM_LATENCIES, histogram.ROW], see latency.py, or [0, histogram.ROW]
    log: F8  # [num_rows, 5]
    # Shared by all engines of a stack, never written: a bank of traces, and tables.
    first_turn: I8  # [num_sessions + 1]
    sessions: F8  # [2, num_sessions]
    turns: I8  # [4, num_turns]
    pause_s: F8  # [num_turns]
    residual_s: F8  # [num_rows, num_bins], see estimates.py
    lease_s: F8  # [num_rows], leases of rules that set one by kind of pause


def map_fields(st: State, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> State:
    """A state whose every field is ``change(name, array)`` of this one's."""
    arrays: dict[str, Any] = {name: change(name, getattr(st, name)) for name in State._fields}
    return State(**arrays)


#: Fields shared by all engines of a stack (no leading dimension).
SHARED = ("first_turn", "sessions", "turns", "pause_s", "residual_s", "lease_s")


def one_engine(stack: State, e: int) -> State:
    """Engine ``e`` of a stack, for callers that are not compiled; arrays are views."""
    return map_fields(stack, lambda name, array: array if name in SHARED else array[e])


@jit
def engine_view(st: State, e: int) -> State:
    """Engine ``e`` of a stack; arrays are views, nothing is copied."""
    return State(
        st.slot[e],
        st.real[e],
        st.n[e],
        st.f[e],
        st.outcome[e],
        st.latency[e],
        st.log[e],
        st.first_turn,
        st.sessions,
        st.turns,
        st.pause_s,
        st.residual_s,
        st.lease_s,
    )


@jit
def host_blocks(st: State, s: int) -> int:
    """Host blocks of a slot: copied ones and those reserved for copies under way."""
    return st.slot[HOST_HI, s] - st.slot[HOST_LO, s] + st.slot[HOST_RESERVED, s]


@jit
def before(st: State, a: int, b: int) -> bool:
    """Priority: does slot ``a`` come before slot ``b``?"""
    if st.real[KEY, a] != st.real[KEY, b]:
        return st.real[KEY, a] < st.real[KEY, b]
    return st.slot[SID, a] < st.slot[SID, b]


@jit
def log_row(st: State, code: int, sid: int, amount: float) -> None:
    """Append a row to the plan log when one is kept (tests and timelines)."""
    row = st.n[LOG_ROWS]
    if row < st.log.shape[0]:
        st.log[row, 0] = st.f[NOW]
        st.log[row, 1] = st.n[ITERATION]
        st.log[row, 2] = code
        st.log[row, 3] = sid
        st.log[row, 4] = amount
        st.n[LOG_ROWS] = row + 1


# Codes of log rows.
(
    LOG_PREFILL,
    LOG_DECODE,
    LOG_LOAD,
    LOG_COPY_OUT,
    LOG_ADMIT,
    LOG_PREEMPT,
    LOG_PAUSE,
    LOG_FINISH,
    LOG_RETURN,
    LOG_FIRST_TOKEN,  # its amount is seconds since the arrival or the return
) = (_constant(k) for k in range(10))
