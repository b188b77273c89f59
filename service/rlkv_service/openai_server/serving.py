"""Requests become turns of sessions on the engine. All of it runs in the engine's thread."""

from __future__ import annotations

import logging
import uuid
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rlkv_engine import state as S
from rlkv_engine.errors import InputError
from rlkv_engine.paged.engine import PagedEngine, Token
from rlkv_service.openai_server.errors import ApiError
from rlkv_service.openai_server.generation import Event, Finished, Generation, Usage, deliver
from rlkv_service.openai_server.metrics import EngineFigures, Metrics
from rlkv_service.openai_server.sessions import Session, SessionBook, common_prefix

_log = logging.getLogger(__name__)


class SessionLimits(NamedTuple):
    """How long and how many sessions are kept while they are paused."""

    max_sessions: int
    idle_s: float


@dataclass(slots=True, eq=False)
class _Running:
    generation: Generation
    session: Session
    last_s: float  # when it was asked for, or its last token came


class Serving:
    """Begins, resumes and ends sessions as requests come and go.

    A turn that ends in a tool call pauses its session for that tool, any other for a human. A
    session whose answer nobody waits for any more ends; its KV is of use to others as long as
    nothing overwrites it.

    Args:
        engine: to which nobody else talks.
        max_tokens: longest context of the model.
        limits: of sessions.
        metrics: what is counted.
        now_s: a clock, seconds.
    """

    def __init__(
        self,
        engine: PagedEngine,
        max_tokens: int,
        limits: SessionLimits,
        metrics: Metrics,
        now_s: Callable[[], float],
    ) -> None:
        self._engine, self._limits, self._metrics, self._now_s = engine, limits, metrics, now_s
        self._max_tokens = min(max_tokens, engine.profile.device_tokens)
        self._book = SessionBook()
        self._running: dict[int, _Running] = {}  # by the engine's number
        self._outbox: list[tuple[Generation, Event]] = []

    def begin(self, generation: Generation) -> str:
        """A request's turn begins; returns the name of its session.

        Raises:
            ApiError: it is refused.
        """
        session = self._find(generation)
        try:
            if session is None:
                session = self._add(generation)
            else:
                self._resume(session, generation)
        except InputError as error:
            raise ApiError(400, str(error), code="context_length_exceeded") from error
        self._running[session.number] = _Running(generation, session, self._now_s())
        return session.session_id

    def abort(self, generation: Generation) -> None:
        """Nobody waits for this request any more: it ends, and its session with it."""
        for running in list(self._running.values()):
            if running.generation is generation:
                self._end(running.session, "abandoned")

    def end_session(self, session_id: str) -> bool:
        """A client ends a session, even in the middle of an answer; False: there is none."""
        session = self._book.find(session_id)
        if session is None:
            return False
        self._end(session, "deleted")
        return True

    def figures(self) -> EngineFigures:
        """The engine as it is now."""
        n, profile = self._engine.state.n, self._engine.profile
        return EngineFigures(
            running_sessions=len(self._running),
            paused_sessions=self._book.num_paused,
            device_blocks=profile.num_device_blocks,
            free_device_blocks=int(n[S.FREE]),
            host_blocks=profile.num_host_blocks,
            free_host_blocks=int(n[S.HOST_FREE]),
        )

    @property
    def idle_s(self) -> float:
        """So long ``step`` has nothing to do unless something is asked."""
        longest = self._book.longest_paused()
        idle_s = self._engine.idle_s
        if longest is not None:
            ends_s = longest.paused_at_s + self._limits.idle_s
            idle_s = min(idle_s, max(0.0, ends_s - self._now_s()))
        return idle_s

    def step(self) -> None:
        """One iteration of the engine, and what came out of it."""
        while (session := self._book.longest_paused()) is not None:
            if session.paused_at_s + self._limits.idle_s > self._now_s():
                break
            self._end(session, "idle")
        for token in self._engine.step():
            self._take(token)

    def flush(self) -> None:
        """What happened goes to those who wait for it."""
        outbox, self._outbox = self._outbox, []
        deliver(outbox)

    def fail_all(self, error: ApiError) -> None:
        """Every request that is being served fails."""
        for running in self._running.values():
            self._outbox.append((running.generation, error))
        self._running.clear()
        self.flush()

    def close(self) -> None:
        """Ends what the engine runs beside itself."""
        self._engine.close()

    def _find(self, generation: Generation) -> Session | None:
        if generation.session_id is None:
            return self._book.match(generation.prompt)
        session = self._book.find(generation.session_id)
        if session is not None and not self._book.is_paused(session):
            raise ApiError(
                409,
                f"session {session.session_id!r} is still answering another request",
                param="session_id",
                code="session_busy",
            )
        return session

    def _add(self, generation: Generation) -> Session:
        full = len(self._book) >= self._limits.max_sessions
        oldest = self._book.longest_paused()
        if full and oldest is None:
            raise ApiError(
                429,
                f"all {self._limits.max_sessions} sessions are being answered",
                code="too_many_sessions",
            )
        number = self._engine.add_session(
            generation.prompt,
            max_new_tokens=self._max_new_tokens(generation),
            stop_tokens=generation.stop_tokens,
            sampling=generation.sampling,
        )
        if full and oldest is not None:
            self._end(oldest, "evicted")
        named = generation.session_id is not None
        session = Session(generation.session_id or f"session-{uuid.uuid4().hex}", named, number)
        self._book.add(session)
        self._metrics.begun_sessions.inc()
        return session

    def _resume(self, session: Session, generation: Generation) -> None:
        prompt = generation.prompt
        # The answer may come back in other tokens; and one token is computed at least.
        kept = min(common_prefix(session.tokens, prompt), len(prompt) - 1)
        self._engine.resume(
            session.number,
            prompt[kept:],
            kept_tokens=kept,
            max_new_tokens=self._max_new_tokens(generation),
            stop_tokens=generation.stop_tokens,
            sampling=generation.sampling,
        )
        self._book.use(session)
        self._metrics.resumes.labels("prefix" if generation.session_id is None else "id").inc()
        self._metrics.pause_s.observe(self._now_s() - session.paused_at_s)

    def _max_new_tokens(self, generation: Generation) -> int:
        if generation.max_new_tokens is not None:
            return generation.max_new_tokens
        return max(1, self._max_tokens - len(generation.prompt))

    def _take(self, token: Token) -> None:
        running = self._running[token.session]
        generation, turn = running.generation, running.generation.turn
        now_s = self._now_s()
        first = turn.num_tokens == 0
        histogram = self._metrics.first_token_s if first else self._metrics.token_s
        histogram.observe(now_s - running.last_s)
        running.last_s = now_s
        try:
            deltas = turn.push(token.token, token.end)
        except Exception:
            # Of a model or tokenizer that we do not know, for one request: the others go on.
            _log.exception("token %d cannot be turned into text", token.token)
            self._end(running.session, "failed")
            return
        if deltas:
            self._outbox.append((generation, deltas))
        if turn.finish_reason is not None:
            self._finish(running)

    def _finish(self, running: _Running) -> None:
        generation, session = running.generation, running.session
        turn, number = generation.turn, session.number
        usage = Usage(len(generation.prompt), self._engine.cached_tokens(number), turn.num_tokens)
        assert turn.finish_reason is not None
        self._engine.pause(number, turn.tool)
        del self._running[number]
        tokens = array("q", self._engine.tokens(number))
        self._book.pause(session, tokens, len(generation.prompt), self._now_s())
        self._outbox.append((generation, Finished(turn.finish_reason, usage)))
        self._metrics.turns.labels(turn.finish_reason).inc()
        self._metrics.prompt_tokens.inc(usage.prompt_tokens)
        self._metrics.cached_tokens.inc(usage.cached_tokens)
        self._metrics.generated_tokens.inc(usage.completion_tokens)

    def _end(self, session: Session, reason: str) -> None:
        self._engine.cancel(session.number)
        self._book.remove(session)
        self._metrics.ended_sessions.labels(reason).inc()
        running = self._running.pop(session.number, None)
        if running is not None:
            self._metrics.turns.labels(reason).inc()
            self._outbox.append((running.generation, _ENDED[reason]()))


_ENDED: dict[str, Callable[[], ApiError]] = {
    "abandoned": lambda: ApiError(499, "the client has gone", code="abandoned"),
    "deleted": lambda: ApiError(409, "the session was ended", code="session_ended"),
    "failed": lambda: ApiError(500, "the answer cannot be turned into text", code="text_failed"),
}
