"""Sessions: what they are called, whom they wait for, and which request is whose."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rlkv_service.adapters.hints import Verdict
from rlkv_service.proxy.answers import HUMAN
from rlkv_service.proxy.conversations import Continuation, Conversation


@dataclass(slots=True, eq=False)
class Session:
    """One conversation."""

    name: str
    is_named: bool  #: whether its client gave it the name; then it is found by that alone
    started_s: float  #: seconds since the epoch
    turn: int  #: the last one, counted from 0
    num_running: int = 0  #: requests that are being answered
    used_s: float = 0.0  #: when it was last, monotonic
    model: str = ""
    #: Of the last answer.
    tool: str = HUMAN
    paused_at_s: float | None = None  #: monotonic; None: it has had no answer yet
    prompt_tokens: int = 0
    output_tokens: int = 0
    tool_wait_s: float = 0.0  #: in all its pauses
    verdict: Verdict | None = None  #: the newest
    decided_turn: int = -1  #: whose pause that was for
    policy_version: str = ""
    continuations: list[Continuation] = field(default_factory=list)

    @property
    def context_tokens(self) -> int:
        """When its pause began."""
        return self.prompt_tokens + self.output_tokens


class SessionBook:
    """All sessions that have not ended.

    A session without a name is in the book under what its next request begins with while it is
    paused, and only then: two requests never go on with one answer of one session.

    Args:
        max_sessions: kept; one more ends the one that was used least recently. Those that are being
            answered stay on top.
        on_end: told of sessions that are over, and why: ``idle`` or ``evicted``.
    """

    def __init__(self, max_sessions: int, on_end: Callable[[Session, str], None]) -> None:
        self._max_sessions, self._on_end = max_sessions, on_end
        self._sessions: dict[str, Session] = {}
        self._paused: OrderedDict[str, Session] = OrderedDict()  # the longest paused first
        self._by_prefix: dict[bytes, list[tuple[Session, frozenset[bytes]]]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_paused(self) -> int:
        """Sessions of which no request is being answered."""
        return len(self._paused)

    @property
    def num_prefixes(self) -> int:
        """Beginnings by which sessions are found."""
        return sum(len(found) for found in self._by_prefix.values())

    def find(self, name: str) -> Session | None:
        """The session of that name."""
        return self._sessions.get(name)

    def match(self, conversation: Conversation) -> Session | None:
        """The paused session without a name that a request goes on with.

        Of several that cannot be told apart it is the one that has waited longest.
        """
        for prefix, place in conversation.prefixes():
            for session, marks in self._by_prefix.get(prefix, ()):
                if any(conversation.goes_on(place, mark) for mark in marks):
                    return session
        return None

    def add(self, name: str | None, turn: int, now_s: float, epoch_s: float) -> Session:
        """A session begins, in use; without a name it gets one."""
        session = Session(
            name or f"rlkv-{secrets.token_hex(8)}", name is not None, epoch_s, turn, 1, now_s
        )
        self._sessions[session.name] = session
        self._shrink()
        return session

    def use(self, session: Session, now_s: float) -> None:
        """A request of the session is being answered."""
        self._paused.pop(session.name, None)
        self._hide(session)
        session.num_running += 1
        session.used_s = now_s

    def pause(self, session: Session, continuations: list[Continuation], now_s: float) -> None:
        """A request of the session is answered; what a next one begins with."""
        session.num_running -= 1
        session.used_s = now_s
        if not self._is_known(session) or session.num_running:
            return
        self._paused[session.name] = session
        if session.is_named:
            self._shrink()
            return
        if not continuations:
            # Nobody could find it.
            self.end(session, "unseen")
            return
        session.continuations = continuations
        for prefix, marks in continuations:
            self._by_prefix.setdefault(prefix, []).append((session, marks))
        self._shrink()

    def restore(self, session: Session, now_s: float) -> None:
        """A request of the session came to nothing: it may be made again."""
        if session.paused_at_s is not None or session.num_running > 1:
            self.pause(session, session.continuations, now_s)
        else:
            session.num_running -= 1
            self.end(session, None)

    def end(self, session: Session, reason: str | None) -> None:
        """A session is over; without a reason nobody is told."""
        if not self._is_known(session):
            return
        del self._sessions[session.name]
        self._paused.pop(session.name, None)
        self._hide(session)
        if reason is not None:
            self._on_end(session, reason)

    def end_idle(self, before_s: float) -> None:
        """Ends sessions that have been paused since then."""
        while self._paused:
            session = next(iter(self._paused.values()))
            if session.used_s > before_s:
                break
            self.end(session, "idle")

    def check_integrity(self) -> None:
        """Raises ``AssertionError`` where the indices do not agree."""
        for name, session in self._sessions.items():
            assert session.name == name
            assert (session.num_running == 0) == (name in self._paused), name
        for prefix, found in self._by_prefix.items():
            for session, marks in found:
                assert self._paused[session.name] is session and not session.is_named
                assert (prefix, marks) in session.continuations
        assert all(self._by_prefix.values())
        assert all(self._sessions.get(name) is each for name, each in self._paused.items())

    def _shrink(self) -> None:
        while len(self._sessions) > self._max_sessions and self._paused:
            self.end(next(iter(self._paused.values())), "evicted")

    def _is_known(self, session: Session) -> bool:
        return self._sessions.get(session.name) is session

    def _hide(self, session: Session) -> None:
        """It is not found by what was said any more."""
        for prefix, _ in session.continuations:
            found = [pair for pair in self._by_prefix.get(prefix, ()) if pair[0] is not session]
            if found:
                self._by_prefix[prefix] = found
            else:
                self._by_prefix.pop(prefix, None)
