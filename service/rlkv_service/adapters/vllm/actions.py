"""Verdicts become references to blocks, copies and dropped hashes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from rlkv_service.adapters.vllm.deciding import Verdict
from rlkv_service.adapters.vllm.engine_state import EngineState
from rlkv_service.adapters.vllm.sessions import Pause, Session
from rlkv_service.adapters.vllm.settings import MAX_LEASE_S
from rlkv_service.schema import Verb


class Actions:
    """Does what was decided.

    Args:
        state: of the engine.
    """

    def __init__(self, state: EngineState) -> None:
        self._state = state
        self._next_lease_end_s = float("inf")

    def apply(self, session: Session, verdict: Verdict, own_references: int = 0) -> None:
        """Does what was decided about a paused session.

        Args:
            session: that is paused.
            verdict: about it.
            own_references: to its blocks, of a request of it that is just ending.
        """
        pause, state = session.pause, self._state
        assert pause is not None
        verb = verdict.verb
        if verb == Verb.SWAP and not self.store_dirty(session):
            state.tally.add("swaps_without_room")
            verb = Verb.PRESERVE
        state.tally.decided(verb.name, verdict.source)
        pause.verb, pause.policy_version = int(verb), verdict.policy_version
        if verb == Verb.PRESERVE:
            pause.lease_end_s = state.clock() + min(verdict.lease_s, MAX_LEASE_S)
            self._next_lease_end_s = min(self._next_lease_end_s, pause.lease_end_s)
            if session.name not in state.holds:
                self._hold(session, pause)
        elif verb == Verb.SWAP:
            # What is being copied is held by the copy; after that it is cache like any other.
            state.holds.release(session.name)
        else:
            self.discard(session, pause, own_references)

    def store_dirty(
        self,
        session: Session,
        block_ids: Sequence[int] | None = None,
        *,
        urgent: bool = False,
        spare: Collection[bytes] = (),
    ) -> bool:
        """Orders copies of blocks that the host does not have.

        Args:
            session: that is paused.
            block_ids: only of these; None: of all.
            urgent: they are given away now.
            spare: what must stay on the host.

        Returns:
            Whether the host has room for them, or needs none.
        """
        state, pause = self._state, session.pause
        assert pause is not None
        if not state.engine.num_host_blocks:
            return False
        index = state.tier.index
        wanted = None if block_ids is None else set(block_ids)
        pairs = [
            (block_hash, block_id)
            for block_hash, block_id in self._still_there(pause)
            if (wanted is None or block_id in wanted) and block_hash not in index
        ]
        index.own(session.name, pause.hashes)
        # At one moment: else a session that waits would be expected later than itself.
        expected_back_s = partial(state.expected_back_s, now_s=state.clock())
        return state.tier.store(session.name, pairs, expected_back_s, urgent=urgent, spare=spare)

    def discard(self, session: Session, pause: Pause, own_references: int) -> None:
        """Nobody needs this context again; what others have of it, too, stays.

        Args:
            session: whose it is.
            pause: in the book, or not any more.
            own_references: to its blocks, of a request that is just ending.
        """
        state, pool = self._state, self._state.pool
        state.tier.call_off(session.name)
        state.holds.release(session.name)
        own_users = int(session.pause is pause)
        ours = [
            block_id
            for block_hash, block_id in self._still_there(pause)
            if state.book.num_users(block_hash) <= own_users
            and pool.num_references(block_id) <= own_references
        ]
        pool.drop_hashes(ours)
        if not own_references and ours:
            # Free blocks without a hash go to the front, the last of the context first.
            pool.touch(ours)
            pool.free(reversed(ours))
        state.tally.add("discarded_blocks", len(ours))
        state.tier.index.leave(session.name, lambda h: state.book.num_users(h) > own_users)

    def forget(self, session: Session) -> None:
        """Nothing is kept for a session any more; its blocks are cache like any other."""
        self._state.tier.call_off(session.name)
        self._state.holds.release(session.name)
        self._state.book.remove(session)
        users = self._state.book.num_users
        self._state.tier.index.leave(session.name, lambda h: users(h) > 0)

    def end_leases(self, now_s: float) -> None:
        """Lets go of sessions whose leases are over, unless they are back."""
        if now_s < self._next_lease_end_s:
            return
        state = self._state
        self._next_lease_end_s = float("inf")
        for name in state.holds.owners:
            session = state.book.find(name)
            pause = session.pause if session is not None else None
            if pause is None or pause.back_s is not None:
                continue
            if pause.lease_end_s <= now_s:
                state.holds.release(name)
                state.tally.add("expired")
            else:
                self._next_lease_end_s = min(self._next_lease_end_s, pause.lease_end_s)

    def _still_there(self, pause: Pause) -> list[tuple[bytes, int]]:
        hash_of = self._state.pool.hash_of
        return [
            (block_hash, block_id)
            for block_hash, block_id in zip(pause.hashes, pause.block_ids, strict=True)
            if hash_of(block_id) == block_hash
        ]

    def _hold(self, session: Session, pause: Pause) -> None:
        state, holds = self._state, self._state.holds
        ids = []
        for block_hash, block_id in zip(pause.hashes, pause.block_ids, strict=True):
            if state.pool.hash_of(block_id) != block_hash:
                break  # the rest is of no use without it
            ids.append(block_id)
        most = int(state.settings.max_preserved_share * state.pool.num_blocks)

        def num_over() -> int:
            return holds.num_blocks + holds.num_new(ids) - most

        if num_over() > 0:
            for victim in state.victims():
                if num_over() <= 0 or not state.gives_before(victim.name, session.name):
                    break
                holds.release(victim.name)
                state.tally.add("released:SHARE")
        if (over := num_over()) > 0:
            ids = ids[: max(0, len(ids) - over)]
            state.tally.add("clipped")
        holds.hold(session.name, ids)
