"""Makes room where an allocation would otherwise wait: nobody waits for what is preserved."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rlkv_service.adapters.vllm.actions import Actions
from rlkv_service.adapters.vllm.deciding import Deciding
from rlkv_service.adapters.vllm.engine_state import EngineState
from rlkv_service.adapters.vllm.fact_rows import Need
from rlkv_service.adapters.vllm.pool import EngineRequest
from rlkv_service.adapters.vllm.sessions import Session
from rlkv_service.schema import Point, Verb

#: Steps for which an answer about a REVISIT is used.
MAX_ANSWER_AGE = 256


class Room:
    """Takes blocks from paused sessions for those who need them now.

    Args:
        state: of the engine.
        actions: on paused sessions.
        deciding: who says what becomes of a session from whom blocks are taken.
    """

    def __init__(self, state: EngineState, actions: Actions, deciding: Deciding) -> None:
        self._state, self._actions, self._deciding = state, actions, deciding
        #: What the last requester of each kind needed, blocks.
        self.last_need: dict[Point, int] = {}

    def for_admission(
        self, request: EngineRequest, num_local: int, spare: Collection[bytes]
    ) -> None:
        """Memory is about to be allocated for a request.

        Args:
            request: that is about to be admitted.
            num_local: blocks of it that the device has.
            spare: blocks that the host must keep for it.
        """
        state, pool, engine = self._state, self._state.pool, self._state.engine
        tokens = min(request.num_tokens + engine.lookahead_tokens, engine.max_model_len)
        need = -(-tokens // engine.block_size) + engine.watermark_blocks
        turn = state.turns.get(request.request_id)
        point = Point.RESUME if turn is not None and turn.is_return else Point.NEW
        self.last_need[point] = need
        if need <= pool.num_free:
            return
        for block_hash in request.block_hashes[:num_local]:
            block_id = pool.find(block_hash)
            # Of a block that somebody has it takes a reference, nothing that is free.
            need -= block_id is not None and pool.num_references(block_id) > 0
        wait_s = state.clock() - turn.arrived_s if turn is not None else 0.0
        own = turn.session if turn is not None else None
        self._make(need, point, wait_s, own, spare)

    def for_growth(self, num_scheduled: Mapping[str, int]) -> None:
        """Makes room for what running requests may need in the next step.

        Args:
            num_scheduled: tokens that this step computes, by request.
        """
        if not len(self._state.holds):
            return
        engine, size, need = self._state.engine, self._state.engine.block_size, 0
        left = engine.max_step_tokens
        for request_id, num in num_scheduled.items():
            request = self._state.requests.get(request_id)
            if request is None:
                continue
            computed = request.num_computed_tokens + num
            more = min(max(1, request.num_tokens - computed), left)
            left -= more
            has = -(-(computed + engine.lookahead_tokens) // size)
            need += max(0, -(-(computed + more + engine.lookahead_tokens) // size) - has)
        if need:
            self.last_need[Point.GROW] = need
            self._make(need, Point.GROW, 0.0, None, ())

    def for_one(self) -> bool:
        """A running request could not grow; whether it helps to wait a step."""
        state = self._state
        if len(state.holds) and self._make(state.pool.num_free + 1, Point.GROW, 0.0, None, ()):
            return True
        return state.tier.has_stores_under_way

    def _make(
        self,
        need: int,
        point: Point,
        wait_s: float,
        own: Session | None,
        spare: Collection[bytes],
    ) -> bool:
        """Takes blocks until so many are free; if that cannot be, nothing is taken."""
        state, pool = self._state, self._state.pool
        short = need - pool.num_free
        if short <= 0:
            return True
        own_name = own.name if own is not None else ""
        at_most = state.holds.num_freed_by_all - state.holds.num_freed_by(own_name)
        if short > at_most + state.tier.num_unsent_blocks:
            state.tally.add(f"no_room:{point.name}")
            return False
        state.tier.hurry()
        if need <= pool.num_free:
            return True
        victims = [s for s in state.victims() if s.name != own_name]
        verbs = self._verbs(victims, Need(int(point), need, short, wait_s))
        # Who is kept by a verdict gives last: an admission does not wait for the preserved.
        ordered = [s for s in victims if verbs[s.name] != Verb.PRESERVE]
        ordered += [s for s in victims if verbs[s.name] == Verb.PRESERVE]
        for session in ordered:
            if (short := need - pool.num_free) <= 0:
                break
            self._take(session, short, point, verbs[session.name], spare)
        return need <= pool.num_free

    def _take(
        self, session: Session, short: int, point: Point, verb: Verb, spare: Collection[bytes]
    ) -> None:
        """Takes blocks of a session, from the end of its context on, until enough are free."""
        state = self._state
        held = state.holds.of(session.name)
        keep = len(held)
        while keep and short > 0:
            keep -= 1
            short -= state.pool.num_references(held[keep]) == 1
        if verb == Verb.SWAP:
            self._actions.store_dirty(session, held[keep:], urgent=True, spare=spare)
        gone = state.holds.release(session.name, keep)
        state.tally.add(f"released:{point.name}")
        state.tally.add("released_blocks", len(gone))

    def _verbs(self, victims: list[Session], need: Need) -> dict[str, Verb]:
        """What becomes of each victim: by an answer at hand, else by the rule."""
        state = self._state
        verbs: dict[str, Verb] = {}
        if self._deciding.is_fixed:
            return {session.name: Verb.DISCARD for session in victims}
        for session in victims:
            assert session.pause is not None
            answer = session.pause.answers.get(need.point)
            if answer is not None and state.num_steps - answer[1] <= MAX_ANSWER_AGE:
                verbs[session.name] = Verb(answer[0])
        state.tally.add("revisits_answered", len(verbs))
        ranks = [rank for rank, session in enumerate(victims) if session.name not in verbs]
        if ranks:
            rest = [victims[rank] for rank in ranks]
            candidates = state.candidates(rest, ranks)
            said = self._deciding.rule_verbs(
                state.machine(), state.moment(), candidates, need, state.means.mean_s
            )
            verbs |= {session.name: verb for session, verb in zip(rest, said, strict=True)}
            state.tally.add("revisits_by_rule", len(rest))
        return verbs
