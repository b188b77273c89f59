"""The books of one engine: its requests, its sessions, what is held for them, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from rlkv_service.adapters.vllm.costs import Costs
from rlkv_service.adapters.vllm.fact_rows import Candidate, Machine, Moment
from rlkv_service.adapters.vllm.holds import Holds
from rlkv_service.adapters.vllm.host_tier import HostTier
from rlkv_service.adapters.vllm.pause_means import PauseMeans
from rlkv_service.adapters.vllm.pool import EngineRequest, Pool
from rlkv_service.adapters.vllm.sessions import Session, SessionBook, Turn
from rlkv_service.adapters.vllm.settings import Settings
from rlkv_service.adapters.vllm.tally import Tally
from rlkv_service.adapters.vllm.victim_order import KeysByReturn


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine as its configuration describes it."""

    engine_id: str
    block_size: int  #: tokens
    max_num_seqs: int
    num_host_blocks: int = 0
    num_workers: int = 1
    max_model_len: int = 2**31
    max_step_tokens: int = 2**31  #: computed in one step
    watermark_blocks: int = 0  #: kept free at admissions
    lookahead_tokens: int = 0


class EngineState:
    """What is known of an engine.

    Args:
        settings: of the plug-in.
        engine: as configured.
        pool: its blocks.
        clock: seconds, monotonic.
        by_age: whether the longest paused are the first to give up blocks; else those expected
            back last.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        pool: Pool,
        clock: Callable[[], float],
        *,
        by_age: bool,
    ) -> None:
        self.settings, self.engine, self.pool, self.clock = settings, engine, pool, clock
        self._by_age = by_age
        self.tally, self.costs, self.means = Tally(), Costs(settings), PauseMeans()
        self.book, self.holds = SessionBook(), Holds(pool)
        self.tier = HostTier(pool, engine.num_host_blocks, engine.num_workers)
        self.turns: dict[str, Turn] = {}  # by request
        self.requests: dict[str, EngineRequest] = {}
        self.num_steps = 0

    def machine(self) -> Machine:
        """The engine and its costs."""
        engine, costs = self.engine, self.costs
        return Machine(
            engine.block_size,
            self.pool.num_blocks,
            engine.num_host_blocks,
            engine.max_num_seqs,
            costs.prefill_token_s,
            costs.swap_out_block_s,
            costs.swap_in_block_s,
        )

    def moment(self) -> Moment:
        """The engine as it is now."""
        turns = self.turns.values()
        num_running = sum(turn.is_admitted for turn in turns)
        num_queued = sum(turn.is_return and not turn.is_admitted for turn in turns)
        decoding_tokens = sum(
            request.num_computed_tokens
            for request in self.requests.values()
            if request.num_output_tokens
        )
        return Moment(
            self.pool.num_free,
            self.tier.num_pending_blocks,
            self.holds.num_blocks,
            decoding_tokens,
            self.tier.index.num_free,
            num_running,
            num_queued,
            len(turns) - num_running - num_queued,
            self.book.num_paused,
        )

    def candidates(self, sessions: Sequence[Session], ranks: Iterable[int]) -> list[Candidate]:
        """Paused sessions as rows of facts describe them.

        Args:
            sessions: that are paused.
            ranks: their places in the order of victims.
        """
        now_s, host = self.clock(), KeysByReturn(())
        if any(len(s.pause.hashes) > self.tier.index.num_free for s in sessions if s.pause):
            host = self.tier.index.by_return(partial(self.expected_back_s, now_s=now_s))
        return [
            self._candidate(session, rank, host, now_s)
            for session, rank in zip(sessions, ranks, strict=True)
        ]

    def _candidate(
        self, session: Session, rank: int, host: KeysByReturn, now_s: float
    ) -> Candidate:
        pause = session.pause
        assert pause is not None
        elapsed_s = now_s - pause.began_s
        remaining_s = self.means.remaining_s(pause.tool, elapsed_s)
        num_host = self.tier.index.num_ready(pause.hashes)
        num_device = len(self.holds.of(session.name)) or len(pause.hashes)
        return Candidate(
            session.name,
            max(0, session.turn),
            pause.tool,
            pause.context_tokens,
            num_device,
            num_host,
            max(0, num_device - num_host),
            self.tier.is_storing(session.name),
            elapsed_s,
            now_s - session.started_s,
            session.tool_wait_s + elapsed_s,
            remaining_s,
            rank,
            self.tier.index.num_free + host.num_later_than(remaining_s),
        )

    def expected_back_s(self, name: str, now_s: float) -> float:
        """How long until a session needs its blocks: infinite of one unknown, or that runs.

        Who runs has them on the device.
        """
        session = self.book.find(name)
        pause = session.pause if session is not None else None
        if pause is None:
            return float("inf")
        if pause.back_s is not None:
            return 0.0
        return self.means.remaining_s(pause.tool, now_s - pause.began_s)

    def gives_before(self, name: str, other: str) -> bool:
        """Whether a session gives up blocks so that another can keep its own, just paused."""
        now_s = self.clock()
        return self._by_age or (
            self.expected_back_s(name, now_s) > self.expected_back_s(other, now_s)
        )

    def victims(self) -> list[Session]:
        """Paused sessions for whom blocks are held; the first are to give up theirs first."""
        away: list[Session] = []
        back: list[Session] = []
        for session in self.book.paused():
            if session.name in self.holds and session.pause is not None:
                (away if session.pause.back_s is None else back).append(session)
        if not self._by_age:
            now_s = self.clock()
            away.sort(key=lambda session: self.expected_back_s(session.name, now_s), reverse=True)
        return away + back[::-1]
