"""The nouns of docs/scheduler.md: sessions, verbs, rules, and what a run records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from math import floor, inf, isfinite
from typing import Protocol

from rlkv_engine.trace import Trace


class Phase(IntEnum):
    UNARRIVED = 0
    NEW = 1  # arrived, never admitted
    QUEUED = 2
    PREFILL = 3
    DECODE = 4
    PAUSED = 5
    FINISHED = 6


class Job(IntEnum):
    NONE = 0
    SWAP_OUT = 1
    WRITE_THROUGH = 2


class Verb(IntEnum):
    PRESERVE = 0
    SWAP = 1
    DISCARD = 2
    SWAP_NOW = 3  # CALL only


class Kind(IntEnum):
    """Who needs blocks."""

    NEW = 0
    RESUME = 1
    DECODE = 2


@dataclass(frozen=True, slots=True)
class Modes:
    """Comparison modes and the two constants of the rules."""

    overlap_swap: bool = True
    chunked_prefill: bool = True
    requeue_to_tail: bool = False
    reuse_discarded: bool = True
    host_victims: bool = True
    slack_ratio: float = 0.012
    mean_pause_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    input_tokens: int
    shared_prefix_tokens: int
    output_tokens: int
    pause_s: float  # NaN on the last turn


@dataclass(slots=True, eq=False)
class Session:
    sid: int
    turns: list[Turn]
    arrival_s: float  # inf until a closed loop lets it arrive
    key: float = inf
    phase: Phase = Phase.UNARRIVED
    turn_index: int = 0
    generated: int = 0  # tokens
    computed: int = 0  # tokens
    target: int = 0  # tokens
    valid: int = 0  # tokens
    dev: int = 0  # blocks
    keep: int = 0  # blocks
    host_lo: int = 0  # blocks
    host_hi: int = 0  # blocks
    host_reserved: int = 0  # blocks
    job: Job = Job.NONE
    job_start: int = 0  # position in the order in which jobs started
    write_floor: int = 0  # block at which a WRITE_THROUGH job ends
    reclaimable_since: int | None = None  # position in the order of becoming reclaimable
    pause_start_s: float = 0.0
    paused_s: float = 0.0  # finished pauses
    return_at_s: float = inf
    lease_end_s: float = inf

    @property
    def turn(self) -> Turn:
        return self.turns[self.turn_index]

    @property
    def priority(self) -> tuple[float, int]:
        return (self.key, self.sid)

    @property
    def is_last_turn(self) -> bool:
        return self.turn_index == len(self.turns) - 1

    @property
    def pending(self) -> int:
        """Soft blocks that become free when they are copied."""
        return self.dev - self.keep if self.job is Job.SWAP_OUT else 0

    @property
    def reclaimable(self) -> int:
        """Soft blocks that may be taken at once."""
        return 0 if self.job is Job.SWAP_OUT else self.dev - self.keep

    @property
    def num_host(self) -> int:
        return self.host_hi - self.host_lo

    def drop_host(self) -> None:
        self.host_lo = self.host_hi = 0


class Link:
    """One direction of the link: time becomes credit, whole blocks of credit are spent."""

    def __init__(self, block_s: float, latency_s: float) -> None:
        self.block_s = block_s
        self.latency_s = latency_s
        self.credit = 0.0  # blocks
        self.is_idle = True

    def move(self, dt_s: float, work: list[Session], copy_one: Callable[[Session], bool]) -> int:
        """Copies blocks, session after session; returns how many."""
        num_moved = 0
        if work and self.is_idle:
            self.credit = -self.latency_s / self.block_s
        self.credit += dt_s / self.block_s
        queue = list(work)
        for _ in range(max(0, floor(self.credit))):
            # A session whose work is done is passed over.
            while queue and not copy_one(queue[0]):
                queue.pop(0)
            if not queue:
                break
            num_moved += 1
        self.credit -= num_moved
        return num_moved

    def rest(self, has_work: bool) -> None:
        """Ends an iteration: the fraction of a block survives only while work remains."""
        self.is_idle = not has_work
        if self.is_idle:
            self.credit = 0.0


class Policy(Protocol):
    """The rule that decides; ``now_s`` is the start of the iteration."""

    def score(self, session: Session, kind: Kind, now_s: float) -> float:
        """Victim score for a requester of ``kind``: the largest is asked first."""

    def call(self, session: Session, now_s: float) -> tuple[Verb, float]:
        """The verb at the start of a pause and, for PRESERVE, the lease in seconds."""

    def revisit(self, session: Session, kind: Kind, now_s: float, take: int) -> Verb:
        """The verb for ``take`` blocks that a requester of ``kind`` is short of."""

    def forced(self, session: Session, kind: Kind, now_s: float) -> Verb:
        """SWAP or DISCARD: how the blocks are taken when nobody gives any."""

    def remaining(self, session: Session, now_s: float) -> float:
        """Expected remaining pause in seconds."""


@dataclass(slots=True)
class Plan:
    """What one iteration did."""

    now_s: float  # at its start
    prefills: list[tuple[int, int]] = field(default_factory=list)  # (sid, chunk), sorted
    decodes: list[int] = field(default_factory=list)  # sids, sorted
    loaded: Counter[int] = field(default_factory=Counter)  # sid -> blocks host to device
    copied: Counter[int] = field(default_factory=Counter)  # sid -> blocks device to host
    admitted: list[int] = field(default_factory=list)  # sids in the order of the events
    preempted: list[int] = field(default_factory=list)
    paused: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    plans: list[Plan] = field(default_factory=list)
    finish_s: dict[int, float] = field(default_factory=dict)  # sid -> time
    #: (sid, turn index) -> first token minus the return (turn 0: minus the arrival)
    resume_latency_s: dict[tuple[int, int], float] = field(default_factory=dict)


def sessions_of(trace: Trace) -> list[Session]:
    sessions = []
    for sid in range(trace.num_sessions):
        turns = [
            Turn(
                int(trace.input_tokens[i]),
                int(trace.shared_prefix_tokens[i]),
                int(trace.output_tokens[i]),
                float(trace.pause_s[i]),
            )
            for i in range(int(trace.first_turn[sid]), int(trace.first_turn[sid + 1]))
        ]
        waits_for_an_end = 0 < trace.num_concurrent <= sid
        arrival_s = inf if waits_for_an_end else float(trace.arrival_s[sid])
        assert waits_for_an_end or isfinite(arrival_s)
        sessions.append(Session(sid, turns, arrival_s))
    return sessions
