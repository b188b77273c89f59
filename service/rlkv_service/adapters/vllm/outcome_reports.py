"""What came of pauses: reported when a session that is back has its next token."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlkv_service.adapters.vllm.pool import EngineRequest
from rlkv_service.adapters.vllm.sessions import Pause, Session, num_common
from rlkv_service.schema import SCHEMA_VERSION, Outcome, SessionEnd


class Reporter(Protocol):
    """Takes outcomes and ends, like ``client.EngineClient``; never blocks."""

    def report(self, outcomes: Sequence[Outcome]) -> object:
        """What came of pauses."""

    def end(self, sessions: Sequence[SessionEnd]) -> object:
        """Sessions that are over."""


@dataclass(frozen=True, slots=True)
class _Returned:
    request: EngineRequest
    outcome: Outcome
    back_s: float


class OutcomeReports:
    """Makes outcomes of returns.

    Args:
        reporter: who is told; None: nobody.
        engine_id: of this engine, in messages.
        block_size: tokens of a block.
        wall_s: the time, seconds since the epoch.
    """

    def __init__(
        self,
        reporter: Reporter | None,
        engine_id: str,
        block_size: int,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._reporter, self._engine_id, self._block_size = reporter, engine_id, block_size
        self._wall_s = wall_s
        self._returned: list[_Returned] = []

    def returned(
        self,
        session: Session,
        pause: Pause,
        request: EngineRequest,
        device_tokens: int,
        host_tokens: int,
        now_s: float,
    ) -> Outcome:
        """A session that is back has memory again; it is reported with its next token.

        Args:
            session: the session.
            pause: that is over.
            request: its next turn.
            device_tokens: of the prompt, found on the device.
            host_tokens: of the prompt, copied in.
            now_s: the time, on the clock of the pause.
        """
        assert pause.back_s is not None
        common = num_common(pause.hashes, request.block_hashes)
        if common == len(pause.hashes):
            kept = min(pause.context_tokens, request.num_prompt_tokens)
        else:
            kept = common * self._block_size
        device = min(device_tokens, kept)
        host = min(host_tokens, kept - device)
        to_epoch_s = self._wall_s() - now_s
        outcome = Outcome(
            SCHEMA_VERSION,
            self._engine_id,
            session.name,
            session.turn,
            pause.tool,
            pause.back_s - pause.began_s,
            pause.context_tokens,
            input_tokens=pause.input_tokens,
            output_tokens=pause.output_tokens,
            new_tokens=request.num_prompt_tokens - kept,
            reused_device_tokens=device,
            reused_host_tokens=host,
            recomputed_tokens=kept - device - host,
            verb=pause.verb,
            policy_version=pause.policy_version,
            started_s=session.started_s + to_epoch_s,
            ended_s=pause.back_s + to_epoch_s,
        )
        self._returned.append(_Returned(request, outcome, pause.back_s))
        return outcome

    def first_tokens(self, now_s: float) -> None:
        """Reports those that have their next token."""
        if not self._returned:
            return
        waiting, done = [], []
        for returned in self._returned:
            if returned.request.num_output_tokens:
                returned.outcome.delay_s = max(0.0, now_s - returned.back_s)
                done.append(returned.outcome)
            else:
                waiting.append(returned)
        self._returned = waiting
        if done and self._reporter is not None:
            self._reporter.report(done)

    def finished(self, request: EngineRequest, now_s: float) -> None:
        """A request is over; one without a token has no outcome."""
        self.first_tokens(now_s)
        self._returned = [each for each in self._returned if each.request is not request]

    def ended(self, session: Session, now_s: float) -> None:
        """A session is over."""
        if self._reporter is not None:
            to_epoch_s = self._wall_s() - now_s
            end = SessionEnd(
                SCHEMA_VERSION,
                self._engine_id,
                session.name,
                max(0, session.turn),
                *session.last_tokens,
                session.started_s + to_epoch_s,
                now_s + to_epoch_s,
            )
            self._reporter.end([end])
