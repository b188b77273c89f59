"""Sessions: what they are called, whom they wait for, and which request is whose."""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rlkv_service.adapters.hints import Verdict
from rlkv_service.proxy.answers import HUMAN
from rlkv_service.proxy.conversations import Continuation, Conversation


class _Behind:
    """Sessions that wait behind one beginning, by the marks of their answers."""

    def __init__(self) -> None:
        self.by_mark: dict[bytes, dict[Session, None]] = {}  # the longest waiting first
        self.lengths: Counter[int] = Counter()  # of marks

    def add(self, session: Session, marks: frozenset[bytes]) -> None:
        for mark in marks:
            self.by_mark.setdefault(mark, {})[session] = None
            self.lengths[len(mark)] += 1

    def remove(self, session: Session, marks: frozenset[bytes]) -> None:
        for mark in marks:
            sessions = self.by_mark.get(mark, {})
            if session not in sessions:
                continue
            del sessions[session]
            if not sessions:
                del self.by_mark[mark]
            self.lengths[len(mark)] -= 1
            if not self.lengths[len(mark)]:
                del self.lengths[len(mark)]


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
        self._by_prefix: dict[bytes, _Behind] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_paused(self) -> int:
        """Sessions of which no request is being answered."""
        return len(self._paused)

    @property
    def num_prefixes(self) -> int:
        """Beginnings by which sessions are found."""
        return len(self._by_prefix)

    def find(self, name: str) -> Session | None:
        """The session of that name."""
        return self._sessions.get(name)

    def match(self, conversation: Conversation) -> Session | None:
        """The paused session without a name that a request goes on with.

        Of several that cannot be told apart it is the one that has waited longest.
        """
        for prefix, place in conversation.prefixes():
            behind = self._by_prefix.get(prefix)
            if behind is None:
                continue
            for mark in conversation.marks_at(place, behind.lengths):
                if (sessions := behind.by_mark.get(mark)) is not None:
                    return next(iter(sessions))
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
            self._by_prefix.setdefault(prefix, _Behind()).add(session, marks)
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
        for prefix, behind in self._by_prefix.items():
            assert behind.by_mark
            lengths: Counter[int] = Counter()
            for mark, sessions in behind.by_mark.items():
                lengths[len(mark)] += len(sessions)
                for session in sessions:
                    assert self._paused[session.name] is session and not session.is_named
                    assert any(prefix == p and mark in m for p, m in session.continuations)
            assert lengths == behind.lengths
        assert all(self._sessions.get(name) is each for name, each in self._paused.items())

    def _shrink(self) -> None:
        while len(self._sessions) > self._max_sessions and self._paused:
            self.end(next(iter(self._paused.values())), "evicted")

    def _is_known(self, session: Session) -> bool:
        return self._sessions.get(session.name) is session

    def _hide(self, session: Session) -> None:
        """It is not found by what was said any more."""
        for prefix, marks in session.continuations:
            behind = self._by_prefix.get(prefix)
            if behind is not None:
                behind.remove(session, marks)
                if not behind.by_mark:
                    del self._by_prefix[prefix]
