"""Sections 1, 3 and 6 of docs/scheduler.md: who holds which block, copies, verbs."""

from __future__ import annotations

from rlkv_engine.profile import Profile
from tests.engine.reference_session import Job, Link, Modes, Phase, Plan, Policy, Session


class Memory:
    """The blocks of both tiers, and everything that moves or frees them."""

    def __init__(
        self, sessions: list[Session], profile: Profile, modes: Modes, policy: Policy
    ) -> None:
        self.sessions = sessions
        self.profile = profile
        self.modes = modes
        self.policy = policy
        self.now_s = 0.0  # start of this iteration
        self.plan = Plan(0.0)  # of this iteration
        self.block_size = profile.block_size
        block_bytes = profile.block_size * profile.kv_bytes_per_token
        latency_s = profile.swap_latency_s
        self.link_in = Link(block_bytes / profile.swap_in_bytes_per_s, latency_s)
        self.link_out = Link(block_bytes / profile.swap_out_bytes_per_s, latency_s)
        self.num_stamps = 0  # orders the starts of jobs and of being reclaimable
        self.num_changes = 0  # events that may turn a refusal into an admission

    def in_phase(self, *phases: Phase) -> list[Session]:
        """Sessions in one of these phases, by priority."""
        return sorted((s for s in self.sessions if s.phase in phases), key=lambda s: s.priority)

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    @property
    def free(self) -> int:
        return self.profile.num_device_blocks - sum(s.dev for s in self.sessions)

    @property
    def pending(self) -> int:
        return sum(s.pending for s in self.sessions)

    @property
    def host_free(self) -> int:
        return self.profile.num_host_blocks - sum(
            s.num_host + s.host_reserved for s in self.sessions
        )

    def available(self, requester: Session) -> int:
        """Free blocks plus the reclaimable ones of everybody else."""
        return self.free + sum(s.reclaimable for s in self.sessions if s is not requester)

    # -- device blocks -------------------------------------------------------------------

    def stamp(self) -> int:
        self.num_stamps += 1
        return self.num_stamps

    def shrink(self, session: Session, dev: int) -> None:
        """Frees the blocks from ``dev`` on."""
        session.dev = min(session.dev, dev)
        session.keep = min(session.keep, session.dev)
        session.computed = min(session.computed, session.dev * self.block_size)
        self.settle(session)

    def settle(self, session: Session) -> None:
        """Notes when a session becomes reclaimable; without reuse its soft blocks are free."""
        if session.reclaimable == 0:
            session.reclaimable_since = None
        elif not self.modes.reuse_discarded:
            self.shrink(session, session.keep)
        elif session.reclaimable_since is None:
            session.reclaimable_since = self.stamp()

    def reclaim_for(self, requester: Session, need: int) -> None:
        """Makes ``need <= available(requester)`` blocks free."""
        while self.free < need:
            victim = min(
                (s for s in self.sessions if s is not requester and s.reclaimable > 0),
                key=lambda s: s.reclaimable_since or 0,
            )
            num_taken = min(need - self.free, victim.reclaimable)
            self.shrink(victim, victim.dev - num_taken)

    def cancel_job(self, session: Session) -> None:
        session.job = Job.NONE
        session.host_reserved = 0
        self.settle(session)

    # -- verbs ---------------------------------------------------------------------------

    def discard(self, session: Session, take: int) -> None:
        session.keep -= take
        self.cancel_job(session)

    def write_through(self, session: Session) -> None:
        """CALL SWAP: as many copies, from the top of the table down, as free host room allows."""
        top = min(session.dev, session.valid // self.block_size)
        lo, hi = self._start_of_copies(session, top)
        num_gap, host_free = max(0, top - hi), self.host_free
        # Ambiguous: a gap that does not fit; here no job starts, the floor cannot help.
        if num_gap > host_free:
            return
        num_down = min(lo, host_free - num_gap)
        if num_gap + num_down > 0:
            session.host_lo, session.host_hi = lo, hi
            session.job, session.job_start = Job.WRITE_THROUGH, self.stamp()
            session.write_floor = lo - num_down
            session.host_reserved = num_gap + num_down

    def swap_out(self, session: Session, take: int) -> bool:
        """REVISIT SWAP of the last ``take`` firm blocks; False, and no effect, if not legal."""
        if self.profile.num_host_blocks == 0:
            return False
        is_extension = session.job is Job.SWAP_OUT
        dev = session.dev if is_extension else session.keep
        keep = session.keep - take
        top = min(dev, session.valid // self.block_size)
        lo, hi = self._start_of_copies(session, top)
        num_copies = max(0, top - hi) + max(0, lo - keep)
        kept_on_host = hi - lo
        num_owned = session.num_host - kept_on_host + session.host_reserved
        if not self._make_host_room(session, num_copies - num_owned):
            return False
        self.shrink(session, dev)
        session.keep = keep
        session.host_lo, session.host_hi = lo, hi
        session.host_reserved = num_copies
        session.job = Job.SWAP_OUT
        # Ambiguous: an extended job keeps its place in the order.
        if not is_extension:
            session.job_start = self.stamp()
        self.settle(session)
        self._free_copied(session)
        return True

    def _start_of_copies(self, session: Session, top: int) -> tuple[int, int]:
        """The host interval that a copy job starts from."""
        if session.num_host == 0 or session.host_lo > top:
            return top, top
        return session.host_lo, session.host_hi

    def _make_host_room(self, session: Session, need: int) -> bool:
        """Drops copies of host victims until ``need`` host blocks are free, or nothing."""
        victims, room = [], self.host_free
        for victim in self._host_victims(session):
            if room >= need:
                break
            victims.append(victim)
            room += victim.num_host + victim.host_reserved
        if room < need:
            return False
        for victim in victims:
            victim.drop_host()
            self.cancel_job(victim)
        return True

    def _host_victims(self, session: Session) -> list[Session]:
        if not self.modes.host_victims:
            return []
        now_s = self.now_s
        remaining_s = self.policy.remaining
        holders = [
            s
            for s in self.sessions
            if s is not session and s.job is not Job.SWAP_OUT and s.num_host + s.host_reserved > 0
        ]
        running = [
            s
            for s in holders
            if s.phase is Phase.DECODE
            or (s.phase is Phase.PREFILL and s.computed >= s.host_hi * self.block_size)
        ]
        limit_s = remaining_s(session, now_s)
        paused = [s for s in holders if s.phase is Phase.PAUSED and remaining_s(s, now_s) > limit_s]
        running.sort(key=lambda s: s.priority, reverse=True)
        paused.sort(key=lambda s: (remaining_s(s, now_s), s.sid), reverse=True)
        return running + paused

    # -- copies --------------------------------------------------------------------------

    def is_loading(self, session: Session) -> bool:
        return (
            session.phase is Phase.PREFILL
            and session.host_lo * self.block_size
            <= session.computed
            < session.host_hi * self.block_size
        )

    def loading(self) -> list[Session]:
        return [s for s in self.in_phase(Phase.PREFILL) if self.is_loading(s)]

    def jobs(self, *kinds: Job) -> list[Session]:
        """Sessions with such a job: SWAP_OUT before WRITE_THROUGH, each by its start."""
        found = [s for s in self.sessions if s.job in kinds]
        return sorted(found, key=lambda s: (s.job, s.job_start))

    def copies_left(self, session: Session) -> int:
        if session.job is Job.NONE:
            return 0
        top = min(session.dev, session.valid // self.block_size)
        lo, hi = self._start_of_copies(session, top)
        end = session.keep if session.job is Job.SWAP_OUT else session.write_floor
        return max(0, top - hi) + max(0, lo - end)

    def copy_in(self, session: Session) -> bool:
        if not self.is_loading(session):
            return False
        session.computed = (session.computed // self.block_size + 1) * self.block_size
        self.plan.loaded[session.sid] += 1
        return True

    def copy_out(self, session: Session) -> bool:
        if self.copies_left(session) == 0:
            return False
        top = min(session.dev, session.valid // self.block_size)
        session.host_lo, session.host_hi = self._start_of_copies(session, top)
        if session.host_hi < top:
            session.host_hi += 1
        else:
            session.host_lo -= 1
        session.host_reserved -= 1
        self.plan.copied[session.sid] += 1
        if session.job is Job.SWAP_OUT:
            self._free_copied(session)
        elif self.copies_left(session) == 0:
            self.cancel_job(session)
        return True

    def _free_copied(self, session: Session) -> None:
        """Frees the tail that the host holds; ends the job when only firm blocks are left."""
        dev = session.dev
        self.shrink(session, max(session.keep, session.valid // self.block_size))
        if session.host_hi >= session.dev:
            self.shrink(session, max(session.keep, session.host_lo))
        # Ambiguous: blocks that a verb frees at once count as a change, as those of a copy do.
        self.num_changes += session.dev < dev
        if session.dev == session.keep:
            self.cancel_job(session)

    def run_links(self, dt_s: float, has_batch: bool) -> float:
        """Step 8; returns the seconds that copies add."""
        if self.modes.overlap_swap:
            num_in = self.link_in.move(dt_s, self.loading(), self.copy_in)
            self.link_in.rest(bool(self.loading()))
        else:
            for session in self.loading():
                while self.copy_in(session):
                    pass
            for session in self.jobs(Job.SWAP_OUT):
                while self.copy_out(session):
                    pass
            added_s = sum(self.plan.loaded.values()) * self.link_in.block_s
            added_s += sum(self.plan.copied.values()) * self.link_out.block_s
            # Ambiguous: dt before the addition is what WRITE_THROUGH earns, undivided.
            num_in = 0
        if self.profile.shared_link:
            dt_s = max(0.0, dt_s - num_in * self.link_in.block_s)
        self.link_out.move(dt_s, self.jobs(Job.SWAP_OUT, Job.WRITE_THROUGH), self.copy_out)
        self.link_out.rest(bool(self.jobs(Job.SWAP_OUT, Job.WRITE_THROUGH)))
        if self.modes.overlap_swap:
            added_s = 0.0
            copied = sum(self.plan.loaded.values()) + sum(self.plan.copied.values())
            if copied and has_batch:
                added_s = self.profile.copy_iteration_s + self.profile.copy_block_s * copied
        return added_s

    # -- invariants ----------------------------------------------------------------------

    def check_session(self, s: Session) -> None:
        bs = self.block_size
        assert 0 <= s.keep <= s.dev, s
        assert 0 <= s.computed <= s.dev * bs, s
        assert 0 <= s.host_lo <= s.host_hi, s
        assert s.num_host == 0 or s.host_hi <= s.valid // bs, s
        assert s.host_reserved == self.copies_left(s), s
        assert s.job is Job.NONE or s.phase is Phase.PAUSED, s
        assert s.job is not Job.SWAP_OUT or s.pending > 0, s
        assert s.job is not Job.WRITE_THROUGH or s.host_reserved > 0, s
        assert (s.reclaimable > 0) == (s.reclaimable_since is not None), s
        if s.phase in (Phase.UNARRIVED, Phase.NEW, Phase.FINISHED):
            assert s.dev == s.num_host == s.host_reserved == 0, s
        elif s.phase is Phase.PREFILL:
            assert s.keep == s.dev == self.blocks(s.target), s
            assert s.computed < s.target, s
        elif s.phase is Phase.DECODE:
            assert s.keep == s.dev == self.blocks(s.computed), s
            assert s.computed == s.turn.input_tokens + s.generated - 1, s
        else:
            assert s.dev == self.blocks(s.computed), s
            assert s.computed <= s.valid, s
        if s.phase is Phase.PAUSED:
            assert s.valid == s.turn.input_tokens + s.turn.output_tokens - 1, s
        if s.phase is Phase.QUEUED:
            assert s.computed <= s.valid < s.target, s
