"""Sessions: what they are called, whom they wait for, and which request is whose."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rlkv_service.adapters.hints import Verdict
from rlkv_service.proxy.answers import HUMAN
from rlkv_service.proxy.conversations import Conversation


@dataclass(slots=True, eq=False)
class Session:
    """One conversation."""

    name: str
    is_named: bool  #: whether its client gave it the name; then it is found by that alone
    started_s: float  #: seconds since the epoch
    turn: int  #: the last one, counted from 0
    num_running: int = 0  #: requests that are being answered
    used_s: float = 0.0  #: when it was last, monotonic
    #: Of the last answer.
    tool: str = HUMAN
    paused_at_s: float | None = None  #: monotonic; None: it has had no answer yet
    prompt_tokens: int = 0
    output_tokens: int = 0
    tool_wait_s: float = 0.0  #: in all its pauses
    verdict: Verdict | None = None  #: of the newest pause
    policy_version: str = ""
    prefix: bytes = b""
    marks: frozenset[bytes] = field(default_factory=frozenset)

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
        self._by_prefix: dict[bytes, list[Session]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_paused(self) -> int:
        """Sessions of which no request is being answered."""
        return len(self._paused)

    @property
    def num_prefixes(self) -> int:
        """Sessions that are found by what was said."""
        return sum(len(sessions) for sessions in self._by_prefix.values())

    def find(self, name: str) -> Session | None:
        """The session of that name."""
        return self._sessions.get(name)

    def match(self, conversation: Conversation) -> Session | None:
        """The paused session without a name that a request goes on with.

        Of several that cannot be told apart it is the one that has waited longest.
        """
        for prefix, place in conversation.prefixes():
            for session in self._by_prefix.get(prefix, ()):
                if any(conversation.goes_on(place, mark) for mark in session.marks):
                    return session
        return None

    def add(self, name: str | None, turn: int, now_s: float, epoch_s: float) -> Session:
        """A session begins, in use; without a name it gets one."""
        session = Session(
            name or f"rlkv-{secrets.token_hex(8)}", name is not None, epoch_s, turn, 1, now_s
        )
        self._sessions[session.name] = session
        while len(self._sessions) > self._max_sessions and self._paused:
            self.end(next(iter(self._paused.values())), "evicted")
        return session

    def use(self, session: Session, now_s: float) -> None:
        """A request of the session is being answered."""
        self._paused.pop(session.name, None)
        self._forget_prefix(session)
        session.num_running += 1
        session.used_s = now_s

    def pause(
        self, session: Session, continued: tuple[bytes, frozenset[bytes]] | None, now_s: float
    ) -> None:
        """A request of the session is answered; what a next one begins with."""
        session.num_running -= 1
        session.used_s = now_s
        if not self._is_known(session) or session.num_running:
            return
        self._paused[session.name] = session
        if session.is_named:
            return
        if continued is None:
            # Nobody could find it.
            self.end(session, "unseen")
            return
        session.prefix, session.marks = continued
        self._by_prefix.setdefault(session.prefix, []).append(session)

    def end(self, session: Session, reason: str | None) -> None:
        """A session is over; without a reason nobody is told."""
        if not self._is_known(session):
            return
        del self._sessions[session.name]
        self._paused.pop(session.name, None)
        self._forget_prefix(session)
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
        by_prefix = {
            session.name: prefix for prefix, found in self._by_prefix.items() for session in found
        }
        assert len(by_prefix) == self.num_prefixes
        for name, prefix in by_prefix.items():
            assert self._paused[name].prefix == prefix and not self._paused[name].is_named
        assert all(self._by_prefix.values())
        assert all(self._sessions.get(name) is each for name, each in self._paused.items())

    def _is_known(self, session: Session) -> bool:
        return self._sessions.get(session.name) is session

    def _forget_prefix(self, session: Session) -> None:
        found = self._by_prefix.get(session.prefix)
        if found is not None and session in found:
            found.remove(session)
            if not found:
                del self._by_prefix[session.prefix]


