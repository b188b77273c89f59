"""Turns of sessions as they pass: who begins one, what came of the pause before, what comes next.

Nothing here is awaited by a request, and nothing that goes wrong here fails one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from rlkv_engine.errors import InputError
from rlkv_service.adapters.hints import Hints, Pause, Served, Verdict
from rlkv_service.client import Outcome, SessionEnd, decision_rows
from rlkv_service.proxy.answers import Answer, Usage
from rlkv_service.proxy.backend_calls import BackendCalls
from rlkv_service.proxy.backend_facts import BackendFacts
from rlkv_service.proxy.figures import Figures
from rlkv_service.proxy.options import ProxyOptions
from rlkv_service.proxy.requests import Asked
from rlkv_service.proxy.session_book import Session, SessionBook
from rlkv_service.proxy.sidecar_link import SidecarLink
from rlkv_service.schema import SCHEMA_VERSION, Point

#: Tokens of a byte of JSON, until a backend has said how many there were; English has about 0.25.
_TOKENS_PER_BYTE = 0.25
#: How much the newest request counts in that.
_NEWEST = 0.1


@dataclass(slots=True, eq=False)
class Turn:
    """One request of a session."""

    asked: Asked
    session: Session
    number: int  #: of the turn, counted from 0
    num_body_bytes: int
    begun_s: float  #: monotonic
    begun_epoch_s: float
    #: The pause that it ends, without what only its own answer says; None: it ends none.
    pause: Outcome | None


class Turns:
    """Keeps the book of sessions, and tells of pauses.

    Args:
        options: of the proxy.
        figures: what is counted.
        facts: of the backend.
        calls: that hints ask for.
        sidecar: None: nobody is told or asked.
    """

    def __init__(
        self,
        options: ProxyOptions,
        figures: Figures,
        facts: BackendFacts,
        calls: BackendCalls,
        sidecar: SidecarLink | None,
    ) -> None:
        self._options, self._figures, self._facts = options, figures, facts
        self._calls, self._sidecar = calls, sidecar
        self._mapper = options.mapper
        self.book = SessionBook(options.max_sessions, self._ended)
        self._running: set[Turn] = set()
        self._tokens_per_byte = _TOKENS_PER_BYTE

    def begin(self, asked: Asked, num_body_bytes: int) -> Turn | None:
        """A request comes in; None: of a session that nobody could know again."""
        now_s, epoch_s = time.monotonic(), time.time()
        if asked.session is None and asked.conversation is None:
            self._figures.unread.labels("conversation").inc()
            return None
        session, by = self._find(asked)
        if session is None:
            first = asked.conversation.num_answers if asked.conversation is not None else 0
            number = first if asked.turn is None else asked.turn
            session = self.book.add(asked.session, number, now_s, epoch_s)
            self._figures.begun_sessions.labels(by).inc()
            pause = None
        else:
            number = session.turn + 1 if asked.turn is None else asked.turn
            pause = self._pause_over(session, now_s, epoch_s)
            self.book.use(session, now_s)
            session.turn = number
            self._figures.resumes.labels(by).inc()
            self._calls.returned(session.name)
        session.model = asked.model or session.model
        turn = Turn(asked, session, number, num_body_bytes, now_s, epoch_s, pause)
        self._running.add(turn)
        return turn

    def hints(self, turn: Turn) -> Hints | None:
        """What the backend is told with the request; None: nothing."""
        if self._mapper is None:
            return None
        asked, session = turn.asked, turn.session
        verdict = session.verdict if self._options.hints_verdicts else None
        pause = Pause(
            session=session.name,
            verdict=verdict,
            turn=turn.number,
            tool=asked.tool,
            prompt_tokens=session.context_tokens or None,
            ends=asked.ends,
        )
        hints = self._mapper(pause, Served(model=asked.model))
        if self._options.takes_fields(asked.kind):
            return hints
        headers = hints.headers
        if self._options.is_vllm:
            # Its Messages API knows no field for the session, and reads the header.
            headers = {"x-session-id": session.name, **headers}
        return replace(hints, fields={}, headers=headers)

    def answered(self, turn: Turn, answer: Answer | None) -> None:
        """The response is through; None: nobody could read it."""
        self._running.discard(turn)
        now_s, session, asked = time.monotonic(), turn.session, turn.asked
        if answer is None:
            self._figures.unread.labels("answer").inc()
            answer = Answer()
        usage = answer.usage or self._estimate(turn, answer)
        if answer.usage is not None and turn.num_body_bytes:
            seen = answer.usage.prompt_tokens / turn.num_body_bytes
            self._tokens_per_byte += _NEWEST * (seen - self._tokens_per_byte)
        self._report(turn, answer, usage)
        session.tool = asked.tool or answer.tool
        session.prompt_tokens, session.output_tokens = (
            usage.prompt_tokens, usage.completion_tokens,
        )  # fmt: skip
        session.paused_at_s = now_s
        self._figures.turns.labels("human" if session.tool == "human" else "tool").inc()
        continuations = asked.conversation.continued(answer) if asked.conversation else []
        self.book.pause(session, continuations, now_s)
        if asked.ends:
            self.book.end(session, "told")
        elif session.num_running == 0:
            self._ask(session, turn, now_s)

    def failed(self, turn: Turn, how: str) -> None:
        """The request came to nothing: ``refused``, ``broken`` or ``abandoned``."""
        self._running.discard(turn)
        self._figures.turns.labels(how).inc()
        session = turn.session
        if session.paused_at_s is not None and session.num_running == 1:
            session.turn = turn.number - 1
        self.book.restore(session, time.monotonic())

    def end_session(self, name: str) -> None:
        """A client has ended a session at its backend."""
        session = self.book.find(name)
        if session is not None:
            self.book.end(session, "told")

    def end_idle(self) -> None:
        """Ends sessions that nobody has gone on with for long."""
        self.book.end_idle(time.monotonic() - self._options.session_idle_s)

    def _find(self, asked: Asked) -> tuple[Session | None, str]:
        if asked.session is not None:
            return self.book.find(asked.session), "client"
        assert asked.conversation is not None
        return self.book.match(asked.conversation), "proxy"

    def _pause_over(self, session: Session, now_s: float, epoch_s: float) -> Outcome | None:
        if session.paused_at_s is None or session.num_running:
            return None
        pause_s = now_s - session.paused_at_s
        session.tool_wait_s += pause_s
        self._figures.pause_s.observe(pause_s)
        decided = session.verdict is not None and session.decided_turn == session.turn
        return Outcome(
            SCHEMA_VERSION,
            self._options.engine_id,
            session.name,
            session.turn,
            session.tool,
            pause_s,
            session.context_tokens,
            input_tokens=session.prompt_tokens,
            output_tokens=session.output_tokens,
            verb=int(session.verdict.verb) if session.verdict is not None and decided else -1,
            policy_version=session.policy_version if decided else "",
            started_s=session.started_s,
            ended_s=epoch_s,
        )

    def _report(self, turn: Turn, answer: Answer, usage: Usage) -> None:
        delay_s = None
        if answer.first_piece_s is not None:
            delay_s = answer.first_piece_s - turn.begun_s
            if answer.usage is not None:
                computed = usage.prompt_tokens - (usage.cached_tokens or 0)
                self._facts.saw_prefill(computed, delay_s)
        outcome = turn.pause
        if outcome is None or self._sidecar is None:
            return
        context = outcome.context_tokens
        outcome.new_tokens = max(0, usage.prompt_tokens - context)
        outcome.delay_s = delay_s or 0.0
        if usage.cached_tokens is not None:
            outcome.reused_device_tokens = min(context, usage.cached_tokens)
            outcome.recomputed_tokens = context - outcome.reused_device_tokens
        self._sidecar.report(outcome)

    def _ask(self, session: Session, turn: Turn, now_s: float) -> None:
        """What becomes of the pause that begins is asked, and told to the backend once known."""
        if self._sidecar is None:
            return
        running_tokens = sum(each.session.context_tokens for each in self._running)
        facts = self._facts.row(running_tokens, len(self._running))
        if facts is None:
            self._sidecar.counts["no_facts"] += 1
            return
        tokens, block_size = session.context_tokens, facts["block_size"]
        try:
            rows = decision_rows(
                [session.name],
                [turn.number],
                [session.tool],
                point=Point.CALL,
                context_tokens=tokens,
                device_blocks=math.ceil(tokens / block_size),
                num_turns=turn.number + 1,
                num_paused=max(1, self.book.num_paused),
                life_s=time.time() - session.started_s,
                tool_wait_s=session.tool_wait_s,
                **facts,
            )
        except InputError:
            self._sidecar.counts["no_facts"] += 1
            raise

        def decided(verdict: Verdict, policy_version: str) -> None:
            if session.turn != turn.number:
                return  # another turn has begun, and is asked about at its end
            session.verdict, session.policy_version = verdict, policy_version
            session.decided_turn = turn.number
            # A session that is back already needs nothing done; by its next turn it will be known.
            if session.num_running == 0 and self.book.find(session.name) is session:
                self._call(session, verdict, ends=False)

        self._sidecar.ask(rows, decided)

    def _call(self, session: Session, verdict: Verdict | None, ends: bool) -> None:
        if self._mapper is None:
            return
        pause = Pause(
            session=session.name,
            verdict=verdict,
            turn=session.turn,
            tool=session.tool,
            prompt_tokens=session.prompt_tokens,
            context_tokens=session.context_tokens,
            ends=ends,
        )
        self._calls.plan(session.name, self._mapper(pause, Served(model=session.model)).calls)

    def _ended(self, session: Session, reason: str) -> None:
        self._figures.ended_sessions.labels(reason).inc()
        self._calls.returned(session.name)
        if reason == "unseen":
            return  # it may go on under another name
        self._call(session, None, ends=True)
        if self._sidecar is not None:
            self._sidecar.report(
                SessionEnd(
                    SCHEMA_VERSION,
                    self._options.engine_id,
                    session.name,
                    session.turn,
                    session.prompt_tokens,
                    session.output_tokens,
                    session.started_s,
                    time.time(),
                )
            )

    def _estimate(self, turn: Turn, answer: Answer) -> Usage:
        """Where the backend says nothing of tokens: by the bytes of the request."""
        said = sum(len(choice.text) for choice in answer.choices)
        return Usage(
            round(self._tokens_per_byte * turn.num_body_bytes),
            max(answer.num_pieces, round(self._tokens_per_byte * said)),
        )
