"""Sessions as the engine's requests show them: turns, and the pauses between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rlkv_service.adapters.vllm.hints import NOTHING, Hint


@dataclass(slots=True, eq=False)
class Pause:
    """A session waits for a tool or a human."""

    number: int  #: of all pauses of this engine
    began_s: float
    tool: str
    hashes: tuple[bytes, ...]  #: of the context's full blocks
    block_ids: tuple[int, ...]  #: where these were when the pause began
    context_tokens: int
    input_tokens: int
    output_tokens: int
    verb: int = -1  #: decided last
    policy_version: str = ""
    lease_end_s: float = 0.0
    #: When the session came back; it may still wait for memory.
    back_s: float | None = None
    #: Answers about a REVISIT, by decision point: verb and the step it came in.
    answers: dict[int, tuple[int, int]] = field(default_factory=dict)
    asked_step: int | None = None


@dataclass(slots=True, eq=False)
class Session:
    """A conversation."""

    name: str
    #: Whether somebody gave it that name; such a session is found by it alone.
    named: bool
    started_s: float
    turn: int = -1  #: that ended last, from 0
    num_live: int = 0  #: requests under way
    tool_wait_s: float = 0.0
    pause: Pause | None = None
    #: Full blocks of the last prompt, and what came after them in it.
    prompt_blocks: int = 0
    prompt_rest: tuple[int, ...] = ()
    last_tokens: tuple[int, int] = (0, 0)  #: of the last turn: prompt, answer


@dataclass(slots=True, eq=False)
class Turn:
    """A request of a session."""

    session: Session
    hint: Hint = NOTHING
    is_return: bool = False
    arrived_s: float = 0.0
    is_admitted: bool = False
    #: Tokens found at its admission, on the device and on the host.
    device_tokens: int = 0
    host_tokens: int = 0


class SessionBook:
    """Every session that has not ended.

    A paused session without a name is found by its blocks: the prompt of its next turn begins with
    all of the last one. The answer may come back in other tokens, because text was made of them in
    between, so the last prompt is enough.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._paused: dict[str, Session] = {}  # the longest paused first
        self._by_prompt: dict[bytes, list[Session]] = {}
        self._users: Counter[bytes] = Counter()  # paused sessions by block
        self._num_pauses = 0

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_paused(self) -> int:
        """Sessions that wait for a tool or a human, or are back and wait for memory."""
        return len(self._paused)

    def paused(self) -> Iterator[Session]:
        """Paused sessions, the longest paused first."""
        return iter(list(self._paused.values()))

    def longest_paused(self) -> Session | None:
        """The session that has paused for the longest time."""
        return next(iter(self._paused.values()), None)

    def find(self, name: str) -> Session | None:
        """The session of that name."""
        return self._sessions.get(name)

    def add(self, name: str, *, named: bool, now_s: float) -> Session:
        """A session begins."""
        session = self._sessions[name] = Session(name, named, now_s)
        return session

    def match(self, hashes: Sequence[bytes], tokens: Sequence[int], size: int) -> Session | None:
        """The paused session without a name whose last prompt this prompt begins with.

        Args:
            hashes: of the full blocks of the prompt.
            tokens: the prompt.
            size: tokens of a block.
        """
        for num in range(len(hashes), 0, -1):
            found = [
                session
                for session in self._by_prompt.get(hashes[num - 1], ())
                if tuple(tokens[num * size : num * size + len(session.prompt_rest)])
                == session.prompt_rest
                and num * size + len(session.prompt_rest) < len(tokens)
            ]
            if found:
                return max(found, key=lambda session: self._common(session, hashes))
        return None

    @staticmethod
    def _common(session: Session, hashes: Sequence[bytes]) -> tuple[int, float]:
        assert session.pause is not None
        return num_common(session.pause.hashes, hashes), session.pause.began_s

    def begin_pause(
        self, session: Session, prompt_blocks: int, prompt_rest: Sequence[int], pause: Pause
    ) -> None:
        """A session waits from now on."""
        assert session.pause is None, session.name
        self._num_pauses += 1
        pause.number = self._num_pauses
        session.pause = pause
        session.prompt_blocks, session.prompt_rest = prompt_blocks, tuple(prompt_rest)
        self._paused[session.name] = session
        self._users.update(pause.hashes)
        if not session.named and 0 < prompt_blocks <= len(pause.hashes):
            self._by_prompt.setdefault(pause.hashes[prompt_blocks - 1], []).append(session)

    def end_pause(self, session: Session) -> Pause:
        """A session waits no more."""
        pause = session.pause
        assert pause is not None, session.name
        session.pause = None
        del self._paused[session.name]
        for block_hash in pause.hashes:
            self._users[block_hash] -= 1
            if not self._users[block_hash]:
                del self._users[block_hash]
        if not session.named and 0 < session.prompt_blocks <= len(pause.hashes):
            key = pause.hashes[session.prompt_blocks - 1]
            self._by_prompt[key].remove(session)
            if not self._by_prompt[key]:
                del self._by_prompt[key]
        return pause

    def remove(self, session: Session) -> None:
        """A session is over, or nobody remembers it."""
        if session.pause is not None:
            self.end_pause(session)
        del self._sessions[session.name]

    def num_users(self, block_hash: bytes) -> int:
        """Paused sessions whose context has this block."""
        return self._users.get(block_hash, 0)


def num_common(a: Sequence[bytes], b: Sequence[bytes]) -> int:
    """How many blocks two contexts have in common. A hash covers all before it, too."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[middle - 1] == b[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
