"""docs/scheduler.md in plain Python, written from that page; this file is section 2.

Slow on purpose: every sum is taken anew, every order is sorted anew. Where the page leaves a
choice, a comment "Ambiguous" says what was chosen. Section 7 is left out.
"""

from __future__ import annotations

from enum import IntEnum
from math import inf

from rlkv_engine.profile import Profile
from rlkv_engine.trace import Trace
from tests.engine.reference_memory import Memory
from tests.engine.reference_offers import Offers
from tests.engine.reference_session import (
    Job,
    Kind,
    Modes,
    Outcome,
    Phase,
    Plan,
    Policy,
    Session,
    Verb,
    sessions_of,
)

MIN_DT_S = 1e-9


class Event(IntEnum):
    # Ambiguous: events are taken in this order, those of a kind by time, then by sid.
    ARRIVAL = 0
    RETURN = 1
    LEASE_END = 2
    RETRY = 3


class ReferenceScheduler:
    def __init__(
        self, trace: Trace, profile: Profile, policy: Policy, modes: Modes | None = None
    ) -> None:
        self.profile = profile
        self.policy = policy
        self.modes = modes or Modes()
        self.sessions = sessions_of(trace)
        self.memory = Memory(self.sessions, profile, self.modes, policy)
        self.offers = Offers(self.memory)
        self.block_size = profile.block_size
        self.now_s = 0.0
        self.just_paused: list[Session] = []
        self.outcome = Outcome()
        self.was_idle = False  # the batch of the iteration before was empty

    def run(self, max_iterations: int = 1_000_000) -> Outcome:
        while self.step():
            self.check()
            assert len(self.outcome.plans) < max_iterations, "the run does not end"
        stuck = [s.sid for s in self.sessions if s.phase is not Phase.FINISHED]
        assert not stuck, f"nothing can happen any more, but sessions {stuck} are not finished"
        return self.outcome

    def step(self) -> bool:
        """One iteration; False if everything has ended."""
        self.memory.plan = plan = Plan(self.now_s)
        self.memory.now_s = self.now_s
        self._call()
        while due := [event for event in self._events() if event[1] <= self.now_s]:
            event, _, sid = min(due)
            self._take_event(event, sid)
        self._grow()
        self._admit()
        chunks, decoding = self._batch()
        dt_s = self._duration(chunks, decoding)
        if dt_s == inf:
            return False
        dt_s += self.memory.run_links(dt_s, bool(chunks or decoding))
        self.now_s += dt_s
        plan.prefills = sorted((s.sid, chunk) for s, chunk in chunks.items())
        plan.decodes = sorted(s.sid for s in decoding)
        self._apply(chunks, decoding)
        self.outcome.plans.append(plan)
        return True

    def _running(self) -> list[Session]:
        return self.memory.in_phase(Phase.PREFILL, Phase.DECODE)

    # -- steps 1 and 2 -------------------------------------------------------------------

    def _call(self) -> None:
        for session in sorted(self.just_paused, key=lambda s: s.priority):
            verb, lease_s = self.policy.call(session, self.now_s)
            if verb == Verb.PRESERVE:
                session.lease_end_s = self.now_s + lease_s
            elif verb == Verb.SWAP:
                self.memory.write_through(session)
            # Ambiguous: SWAP_NOW without host room counts as DISCARD, as at REVISIT.
            elif verb == Verb.DISCARD or not self.memory.swap_out(session, session.keep):
                self.memory.discard(session, session.keep)
            self.memory.num_changes += 1
            remaining_s = self.policy.remaining(session, self.now_s)
            if self.offers.refusal and remaining_s > self.offers.refusal.longest_remaining_s:
                self.offers.refusal = None
        self.just_paused = []

    def _events(self) -> list[tuple[Event, float, int]]:
        events = []
        for session in self.sessions:
            if session.phase is Phase.UNARRIVED:
                events.append((Event.ARRIVAL, session.arrival_s, session.sid))
            elif session.phase is Phase.PAUSED:
                events.append((Event.RETURN, session.return_at_s, session.sid))
                events.append((Event.LEASE_END, session.lease_end_s, session.sid))
        if self.offers.refusal is not None:
            events.append((Event.RETRY, self.offers.refusal.retry_at_s, -1))
        return events

    def _take_event(self, event: Event, sid: int) -> None:
        session = self.sessions[sid]
        if event is Event.ARRIVAL:
            session.phase, session.key = Phase.NEW, session.arrival_s
            session.target = session.turn.input_tokens
        elif event is Event.RETURN:
            self._return(session)
        elif event is Event.LEASE_END:
            session.lease_end_s = inf
            # Ambiguous: "all reclaimable" cancels the job of an earlier REVISIT SWAP.
            self.memory.discard(session, session.keep)
            self.memory.num_changes += 1
        else:
            self.offers.refusal = None
            self.memory.num_changes += 1

    def _return(self, session: Session) -> None:
        session.turn_index += 1
        turn = session.turn
        session.lease_end_s = inf
        session.paused_s += session.return_at_s - session.pause_start_s
        self.memory.cancel_job(session)
        session.valid = min(session.valid, turn.shared_prefix_tokens, turn.input_tokens - 1)
        session.computed = min(session.computed, session.valid)
        self.memory.shrink(session, self.memory.blocks(session.computed))
        session.host_hi = min(session.host_hi, session.valid // self.block_size)
        if session.host_hi <= session.host_lo:
            session.drop_host()
        session.generated = 0
        session.target = turn.input_tokens
        session.phase = Phase.QUEUED
        if self.modes.requeue_to_tail:
            session.key = session.return_at_s
        self.memory.num_changes += 1

    # -- steps 4 and 5, sections 4 and 5 -------------------------------------------------

    def _grow(self) -> None:
        self._grow_once()
        # Not on the page, where all could wait for good: stalled sessions in every seat, and
        # the blocks with older ones in the queue. The youngest leaves its seat and its blocks.
        while self.offers.stalled and not self.offers.can_go_on():
            self.offers.preempt(self._running()[-1])
            self._grow_once()

    def _grow_once(self) -> None:
        self.offers.stalled = set()
        for session in self.memory.in_phase(Phase.DECODE):
            # It may have been preempted by an older one.
            is_full = session.computed == session.dev * self.block_size
            if session.phase is not Phase.DECODE or not is_full:
                continue
            if self.offers.request(session, Kind.DECODE, 1):
                session.dev += 1
                session.keep = session.dev
            else:
                self.offers.stalled.add(session.sid)

    def _admit(self) -> None:
        while len(self._running()) < self.profile.max_num_seqs:
            queue = self.memory.in_phase(Phase.NEW, Phase.QUEUED)
            if not queue:
                return
            head = queue[0]
            kind = Kind.NEW if head.phase is Phase.NEW else Kind.RESUME
            num_blocks = self.memory.blocks(head.target)
            if not self.offers.request(head, kind, num_blocks - head.dev):
                return
            head.phase = Phase.PREFILL
            head.keep = head.dev = num_blocks
            self.memory.settle(head)
            self.memory.plan.admitted.append(head.sid)

    # -- steps 6, 7 and 9 ----------------------------------------------------------------

    def _batch(self) -> tuple[dict[Session, int], list[Session]]:
        """Prefill chunks in tokens and the decoding sessions, by priority."""
        decoding = [
            s for s in self.memory.in_phase(Phase.DECODE) if s.sid not in self.offers.stalled
        ]
        budget = self.profile.max_num_batched_tokens - len(decoding)
        chunks: dict[Session, int] = {}
        for session in self.memory.in_phase(Phase.PREFILL):
            if self.memory.is_loading(session) or budget <= 0:
                continue
            host_start = session.host_lo * self.block_size
            is_ahead = session.num_host > 0 and session.computed < host_start
            chunk = (host_start if is_ahead else session.target) - session.computed
            if self.modes.chunked_prefill:
                chunk = min(chunk, budget)
            chunks[session] = chunk
            budget -= chunk
        return chunks, decoding

    def _duration(self, chunks: dict[Session, int], decoding: list[Session]) -> float:
        """Step 7; infinite if everything has ended."""
        if not chunks and not decoding:
            to_event_s = min((at_s for _, at_s, _ in self._events()), default=inf) - self.now_s
            has_copies = self.memory.loading() or self.memory.jobs(Job.SWAP_OUT)
            copying_s = self.profile.copy_only_iteration_s or self.profile.iteration_s
            dt_s = min(to_event_s, copying_s) if has_copies else to_event_s
            self.was_idle = True
            return max(dt_s, MIN_DT_S)
        p = sum(chunks.values())
        q = sum(chunk * (s.computed + 0.5 * chunk) for s, chunk in chunks.items())
        d = len(decoding)
        kv = sum(s.computed for s in decoding)
        profile = self.profile
        dt_s = (
            profile.iteration_s
            + profile.prefill_token_s * p
            + profile.prefill_token_context_s * q
            + profile.decode_session_s * d
            + profile.kv_token_s * kv
            + (profile.prefill_iteration_s if chunks else 0.0)
            + (profile.wake_s if self.was_idle else 0.0)
        )
        self.was_idle = False
        return max(dt_s, MIN_DT_S)

    def _apply(self, chunks: dict[Session, int], decoding: list[Session]) -> None:
        for session in sorted([*chunks, *decoding], key=lambda s: s.priority):
            session.computed += chunks.get(session, 1)
            if session.phase is Phase.DECODE or session.computed == session.target:
                session.phase = Phase.DECODE
                session.generated += 1
                if session.generated == 1:
                    turn = (session.sid, session.turn_index)
                    start_s = session.return_at_s if session.turn_index else session.arrival_s
                    self.outcome.resume_latency_s[turn] = self.now_s - start_s
            if session.generated == session.turn.output_tokens:
                self._end_turn(session)

    def _end_turn(self, session: Session) -> None:
        if session.is_last_turn:
            self._finish(session)
            return
        session.phase = Phase.PAUSED
        session.pause_start_s = self.now_s
        session.return_at_s = self.now_s + session.turn.pause_s
        session.valid = session.computed
        session.dev = session.keep = self.memory.blocks(session.computed)
        self.just_paused.append(session)
        self.memory.plan.paused.append(session.sid)

    def _finish(self, session: Session) -> None:
        session.phase = Phase.FINISHED
        session.dev = session.keep = session.computed = 0
        session.drop_host()
        self.outcome.finish_s[session.sid] = self.now_s
        self.memory.plan.finished.append(session.sid)
        self.memory.num_changes += 1
        self.offers.refusal = None
        unarrived = [s for s in self.memory.in_phase(Phase.UNARRIVED) if s.arrival_s == inf]
        if unarrived:
            min(unarrived, key=lambda s: s.sid).arrival_s = self.now_s

    # -- invariants ----------------------------------------------------------------------

    def check(self) -> None:
        """Asserts what holds between iterations."""
        memory, profile = self.memory, self.profile
        firm, soft = sum(s.keep for s in self.sessions), sum(s.dev - s.keep for s in self.sessions)
        reclaimable = sum(s.reclaimable for s in self.sessions)
        assert memory.free >= 0
        assert memory.free + firm + soft == profile.num_device_blocks
        assert soft == reclaimable + memory.pending
        assert memory.host_free >= 0
        assert self.modes.reuse_discarded or reclaimable == 0
        assert len(self._running()) <= profile.max_num_seqs
        for session in self.sessions:
            memory.check_session(session)
