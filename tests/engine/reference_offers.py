"""Sections 4 and 5 of docs/scheduler.md: how a session that needs blocks gets them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from tests.engine.reference_memory import Memory
from tests.engine.reference_session import Kind, Phase, Session, Verb

#: Candidates that may be kept in one offer.
MAX_SKIPPED = 8


@dataclass(slots=True)
class Refusal:
    """An admission of a NEW session that a paused one preferred to keep its blocks from."""

    retry_at_s: float
    longest_remaining_s: float  # of the sessions paused then


class Offers:
    """Blocks for requesters; ``stalled`` are the DECODE sessions that sit this iteration out."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.policy = memory.policy
        self.modes = memory.modes
        self.stalled: set[int] = set()  # sids
        self.refusal: Refusal | None = None
        self.turned_away_at = dict.fromkeys(Kind, -1)  # num_changes at that time

    def request(self, requester: Session, kind: Kind, need: int) -> bool:
        """Whether ``need`` blocks can be had now; if so they are free, for the caller to take."""
        if need > self.memory.available(requester):
            if not self._lacks(requester, need) or not self._may_ask(kind):
                return False
            self._offer(requester, kind, need)
        if need > self.memory.available(requester):
            # Ambiguous: "turned away" is the end of an offer, not a wait for copies.
            self.turned_away_at[kind] = self.memory.num_changes
            return False
        self.memory.reclaim_for(requester, need)
        if kind is Kind.NEW:
            self.refusal = None
        return True

    def _lacks(self, requester: Session, need: int) -> bool:
        return need > self.memory.available(requester) + self.memory.pending

    def _may_ask(self, kind: Kind) -> bool:
        if kind is Kind.NEW and self.refusal is not None:
            return False
        return self.turned_away_at[kind] != self.memory.num_changes

    def _offer(self, requester: Session, kind: Kind, need: int) -> None:
        slack = ceil(self.modes.slack_ratio * self.memory.profile.num_device_blocks)
        short = need + slack - self.memory.available(requester) - self.memory.pending
        asked: list[Session] = []
        skipped: list[Session] = []
        while short > 0:
            victim = self._next_candidate(asked, kind)
            if victim is None:
                break
            asked.append(victim)
            take = min(short, victim.keep)
            verb = self.policy.revisit(victim, kind, self.memory.now_s, take)
            if verb != Verb.PRESERVE:
                self._take_from(victim, verb, take)
                short -= take
            elif kind is Kind.NEW:
                self._refuse()
                return
            else:
                skipped.append(victim)
                if len(skipped) == MAX_SKIPPED:
                    break
        while kind is not Kind.NEW and self._lacks(requester, need):
            forced = skipped.pop(0) if skipped else self._next_candidate(asked, kind)
            if forced is None:
                break
            asked.append(forced)
            # The amount is what is missing, without the slack.
            available = self.memory.available(requester) + self.memory.pending
            take = min(need - available, forced.keep)
            self._take_from(forced, self.policy.forced(forced, kind, self.memory.now_s), take)
        self._preempt_for(requester, kind, need)

    def _next_candidate(self, asked: list[Session], kind: Kind) -> Session | None:
        now_s = self.memory.now_s
        paused = self.memory.in_phase(Phase.PAUSED)
        candidates = [s for s in paused if s.keep > 0 and s not in asked]
        if not candidates:
            return None
        return max(candidates, key=lambda s: (self.policy.score(s, kind, now_s), s.sid))

    def _take_from(self, victim: Session, verb: Verb, take: int) -> None:
        if verb != Verb.SWAP or not self.memory.swap_out(victim, take):
            self.memory.discard(victim, take)

    def _refuse(self) -> None:
        now_s = self.memory.now_s
        remaining = (self.policy.remaining(s, now_s) for s in self.memory.in_phase(Phase.PAUSED))
        retry_at_s = now_s + max(0.5, 0.1 * self.modes.mean_pause_s)
        self.refusal = Refusal(retry_at_s, max(remaining))

    def _preempt_for(self, requester: Session, kind: Kind, need: int) -> None:
        owners = self.memory.in_phase(Phase.DECODE, Phase.PREFILL, Phase.QUEUED)
        for victim in reversed(owners):
            # Ambiguous: "hold blocks"; here firm ones, the others are available already.
            if victim.keep == 0 or victim.priority <= requester.priority:
                continue
            if not self._lacks(requester, need):
                return
            # The page says RESUME; with requeue_to_tail a NEW head could wait for good otherwise.
            if kind is not Kind.DECODE and self.can_go_on():
                return
            self.preempt(victim)

    def can_go_on(self) -> bool:
        """Whether a session can run, or blocks are about to come free."""
        running = self.memory.in_phase(Phase.PREFILL, Phase.DECODE)
        return self.memory.pending > 0 or any(s.sid not in self.stalled for s in running)

    def preempt(self, session: Session) -> None:
        session.phase = Phase.QUEUED
        session.valid = max(session.valid, session.computed)
        session.target = session.turn.input_tokens + session.generated
        session.keep = 0
        self.memory.shrink(session, self.memory.blocks(session.computed))
        self.stalled.discard(session.sid)
        self.memory.num_changes += 1
        self.memory.plan.preempted.append(session.sid)
