"""What becomes of the KV of paused sessions in one vLLM engine; knows no vLLM.

Its methods are called where the engine's are, in one thread, between steps. Nothing here waits for
anybody.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

from rlkv_engine.errors import InputError
from rlkv_service.adapters.vllm.actions import Actions
from rlkv_service.adapters.vllm.asking_ahead import AskingAhead
from rlkv_service.adapters.vllm.copy_orders import CopyOrders, CopyReport
from rlkv_service.adapters.vllm.deciding import Deciding, Verdict
from rlkv_service.adapters.vllm.engine_state import Engine, EngineState
from rlkv_service.adapters.vllm.hints import NOTHING, Hint, is_name, read_hint
from rlkv_service.adapters.vllm.outcome_reports import OutcomeReports
from rlkv_service.adapters.vllm.pool import EngineRequest, Pool, num_full_blocks
from rlkv_service.adapters.vllm.room import Room
from rlkv_service.adapters.vllm.sessions import Pause, Session, Turn
from rlkv_service.adapters.vllm.settings import Settings
from rlkv_service.adapters.vllm.tool_names import ToolNames
from rlkv_service.client.engine_client import EngineClient

#: Paused sessions that are remembered; of more the longest paused is over.
MAX_PAUSED = 4096
#: Who has paused for longer is over, seconds.
MAX_PAUSE_S = 3600.0


class Keeper:
    """Keeps what paused sessions will need again.

    Args:
        settings: of the plug-in.
        engine: whose blocks these are.
        pool: its blocks.
        client: asks the sidecar; None: nobody.
        names: reads which tool an answer calls.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        pool: Pool,
        client: EngineClient | None = None,
        names: ToolNames | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._names = client, names or ToolNames(None, "")
        self._deciding = Deciding(settings, client)
        self.state = EngineState(settings, engine, pool, clock, by_age=self._deciding.is_fixed)
        self._actions = Actions(self.state)
        self._room = Room(self.state, self._actions, self._deciding)
        self._ahead = AskingAhead(self.state, self._actions, self._deciding, self._room)
        self._reports = OutcomeReports(client, engine.engine_id, engine.block_size)
        #: Blocks found on the device, of requests whose memory is being allocated.
        self._num_local: dict[str, int] = {}
        #: Steps whose output is not there: when they began, tokens, requests.
        self._steps: deque[tuple[float, int, int]] = deque(maxlen=8)
        self._last_done_s = 0.0

    # Requests.

    def on_new_request(self, request: EngineRequest) -> None:
        """A request has arrived; it may be a paused session's next turn."""
        self._ahead.collect()
        state, now_s = self.state, self.state.clock()
        hint = self._hint_of(request)
        session = self._session_of(hint.session or request.session_id or "", request, now_s)
        turn = Turn(session, hint, arrived_s=now_s)
        pause = session.pause
        if pause is not None and pause.back_s is None:
            turn.is_return = True
            pause.back_s = now_s
            session.tool_wait_s += now_s - pause.began_s
            state.means.observe(pause.tool, now_s - pause.began_s)
        session.num_live += 1
        state.turns[request.request_id] = turn
        state.requests[request.request_id] = request

    def host_tokens_for(self, request: EngineRequest, num_local_tokens: int) -> int:
        """Memory is about to be allocated for a request; makes room where there is none.

        Returns:
            Tokens after ``num_local_tokens`` whose KV the host has.
        """
        size = self.state.engine.block_size
        num_local = num_local_tokens // size
        # A token is left to compute: the next one is sampled from it.
        hashes = request.block_hashes[num_local : (request.num_tokens - 1) // size]
        num_host = self.state.tier.index.num_ready(hashes)
        self._num_local[request.request_id] = num_local
        self._room.for_admission(request, num_local, frozenset(hashes[:num_host]))
        return num_host * size

    def on_allocated(
        self, request: EngineRequest, block_ids: Sequence[int], num_host_tokens: int
    ) -> None:
        """A request has its memory; what was promised from the host is copied in this step.

        Args:
            request: that is admitted.
            block_ids: its blocks, in the order of the context.
            num_host_tokens: that ``host_tokens_for`` has promised and the engine has taken.
        """
        size = self.state.engine.block_size
        num_local = self._num_local.pop(request.request_id, 0)
        num_host = num_host_tokens // size
        if num_host:
            end = num_local + num_host
            self.state.tier.load(request.block_hashes[num_local:end], block_ids[num_local:end])
        turn = self.state.turns.get(request.request_id)
        if turn is None or turn.is_admitted:
            return  # it was preempted, and its pause ended long ago
        turn.is_admitted = True
        session, pause = turn.session, turn.session.pause
        if turn.is_return and pause is not None:
            # The request has references of its own by now.
            self.state.holds.release(session.name)
            self.state.tier.call_off(session.name)
            self.state.tier.index.own(session.name, request.block_hashes)
            self.state.book.end_pause(session)
            now_s = self.state.clock()
            outcome = self._reports.returned(
                session, pause, request, num_local * size, num_host_tokens, now_s
            )
            tally = self.state.tally
            tally.add("returned")
            tally.add("reused_device_tokens", outcome.reused_device_tokens)
            tally.add("reused_host_tokens", outcome.reused_host_tokens)
            tally.add("recomputed_tokens", outcome.recomputed_tokens)

    def on_finished(
        self, request: EngineRequest, block_ids: Sequence[int], *, is_normal: bool
    ) -> None:
        """A request is over, and still has its blocks.

        Args:
            request: it.
            block_ids: its blocks, in the order of the context.
            is_normal: not aborted, and without an error.
        """
        state, now_s = self.state, self.state.clock()
        state.requests.pop(request.request_id, None)
        self._num_local.pop(request.request_id, None)
        turn = state.turns.pop(request.request_id, None)
        self._reports.finished(request, now_s)
        if turn is None:
            return
        session = turn.session
        session.num_live -= 1
        if not is_normal:
            state.tally.add("aborted")
            if not session.num_live:
                self._actions.forget(session)
            return
        session.turn = session.turn + 1 if turn.hint.turn is None else turn.hint.turn
        session.last_tokens = (request.num_prompt_tokens, request.num_output_tokens)
        if session.num_live:
            return  # another request of it is under way
        if session.pause is not None:
            state.holds.release(session.name)
            state.book.end_pause(session)
        pause = self._pause_of(turn, request, block_ids, now_s)
        if turn.hint.ends:
            self._actions.discard(session, pause, own_references=1)
            self._reports.ended(session, now_s)
            state.tally.add("ended")
            self._actions.forget(session)
            return
        size = state.engine.block_size
        prompt_blocks = min(request.num_prompt_tokens // size, len(pause.hashes))
        rest = request.all_token_ids[prompt_blocks * size : request.num_prompt_tokens]
        state.book.begin_pause(session, prompt_blocks, rest, pause)
        self._actions.apply(session, self._verdict(session, turn.hint), own_references=1)

    # Steps.

    def step(self, num_scheduled: Mapping[str, int]) -> CopyOrders:
        """A step is planned.

        Args:
            num_scheduled: tokens that it computes, by request.

        Returns:
            What its workers copy.
        """
        state, now_s = self.state, self.state.clock()
        state.num_steps += 1
        self._steps.append((now_s, sum(num_scheduled.values()), len(num_scheduled)))
        self._ahead.collect()
        self._actions.end_leases(now_s)
        self._forget_the_longest_paused(now_s)
        self._reports.first_tokens(now_s)
        self._room.for_growth(num_scheduled)
        if self._deciding.asks:
            self._ahead.ask()
        return state.tier.take_orders()

    def on_step_done(self, report: CopyReport | None) -> None:
        """A step is over, and this is what its workers have copied."""
        state = self.state
        if self._steps:
            began_s, num_tokens, num_requests = self._steps.popleft()
            now_s = state.clock()
            # Asynchronous scheduling plans a step while the one before it is computed.
            step_s = now_s - max(began_s, self._last_done_s)
            state.costs.step(num_tokens, num_requests, step_s)
            self._last_done_s = now_s
        if report:
            state.costs.copied_out(report.out_blocks, report.out_s)
            state.costs.copied_in(report.in_blocks, report.in_s)
            state.tier.settle(report)

    def free_some(self) -> bool:
        """A running request could not grow; whether blocks are free now, or will be soon."""
        return self._room.for_one()

    @property
    def has_work(self) -> bool:
        """Whether an idle engine should go on stepping."""
        return self.state.tier.has_work

    # Ends.

    def before_reset(self) -> None:
        """The device's cache is about to be emptied: nothing may be held."""
        self.state.tier.call_off()
        self._release_all()

    def after_reset(self) -> None:
        """Nothing that was computed before is valid."""
        self.state.tier.index.clear()

    def abandon(self) -> None:
        """Lets go of everything, whatever state the books are in."""
        self._release_all()
        self.state.tier.abandon()

    def close(self) -> None:
        """Lets go of everything, and writes outcomes that wait."""
        self.abandon()
        if self._client is not None:
            self._client.close()

    def counts(self) -> dict[str, int]:
        """Everything that was counted, as it stands now."""
        tier = self.state.tier
        counts = dict(self.state.tally.snapshot()) | {
            "stored_blocks": tier.num_stored,
            "loaded_blocks": tier.num_loaded,
            "failed_stores": tier.num_failed_stores,
            "failed_loads": tier.num_failed_loads,
            "host_evicted_blocks": tier.index.num_evicted,
        }
        if self._client is not None:
            said = self._client.counts
            counts |= {f"asked:{reason.name}": num for reason, num in said.by_reason.items()}
            counts["fallback"] = said.local
            counts["outcomes_written"] = said.outcomes_written
        return {name: num for name, num in counts.items() if num}

    def gauges(self) -> dict[str, int]:
        """What is held now."""
        state = self.state
        return {
            "preserved_blocks": state.holds.num_blocks,
            "pending_blocks": state.tier.num_pending_blocks,
            "host_blocks": len(state.tier.index),
            "host_free_blocks": state.tier.index.num_free,
            "paused_sessions": state.book.num_paused,
        }

    # Inside.

    def _release_all(self) -> None:
        for name in self.state.holds.owners:
            self.state.holds.release(name)

    def _forget_the_longest_paused(self, now_s: float) -> None:
        """One of them a step, where there are too many or it has paused for too long."""
        session = self.state.book.longest_paused()
        if session is None or session.pause is None or session.num_live:
            return
        paused_s = now_s - session.pause.began_s
        if paused_s > MAX_PAUSE_S or self.state.book.num_paused > MAX_PAUSED:
            self._reports.ended(session, now_s)
            self._actions.forget(session)
            self.state.tally.add("forgotten")

    def _hint_of(self, request: EngineRequest) -> Hint:
        try:
            return read_hint(request.kv_transfer_params)
        except InputError:
            self.state.tally.add("bad_hints")
            return NOTHING

    def _session_of(self, name: str, request: EngineRequest, now_s: float) -> Session:
        book = self.state.book
        if not is_name(name):
            self.state.tally.add("bad_hints")
            name = ""
        if name:
            return book.find(name) or book.add(name, named=True, now_s=now_s)
        size = self.state.engine.block_size
        return book.match(request.block_hashes, request.all_token_ids, size) or book.add(
            f"vllm-{uuid4().hex}", named=False, now_s=now_s
        )

    def _pause_of(
        self, turn: Turn, request: EngineRequest, block_ids: Sequence[int], now_s: float
    ) -> Pause:
        num = min(num_full_blocks(request, self.state.engine.block_size), len(block_ids))
        for i in range(num):
            if self.state.pool.hash_of(block_ids[i]) != request.block_hashes[i]:
                num = i
                break
        return Pause(
            0,
            now_s,
            turn.hint.tool or self._names.of(request.output_token_ids),
            tuple(request.block_hashes[:num]),
            tuple(block_ids[:num]),
            request.num_tokens,
            request.num_prompt_tokens,
            request.num_output_tokens,
        )

    def _verdict(self, session: Session, hint: Hint) -> Verdict:
        if hint.verb is not None:
            lease_s = self.state.settings.ttl_s if hint.lease_s is None else hint.lease_s
            return Verdict(hint.verb, lease_s, "HINT")
        if self._deciding.is_fixed:
            verdict = self._deciding.fixed()
        else:
            verdict, asked = self._deciding.at_call(
                self.state.machine(),
                self.state.moment(),
                self.state.candidates([session], [0])[0],
                self.state.means.mean_s,
                self._ahead.tag_of_call(session),
            )
            self.state.tally.add("asked_calls", asked)
        if hint.lease_s is not None:
            return Verdict(verdict.verb, hint.lease_s, verdict.source, verdict.policy_version)
        return verdict
