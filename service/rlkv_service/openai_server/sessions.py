"""Sessions of clients: what they are called, what they have said, and who is to go first."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_ITEM_BYTES = array("q").itemsize


@dataclass(slots=True, eq=False)
class Session:
    """A session of a client and of the engine."""

    session_id: str
    #: Whether the client gave it its name; such a session is found by that name alone.
    named: bool
    number: int  #: in the engine
    #: Of the last turn: prompt and answer, and how much of that was the prompt.
    tokens: array[int] = field(default_factory=lambda: array("q"))
    num_prompt_tokens: int = 0
    paused_at_s: float = 0.0


class SessionBook:
    """Every session that has not ended, by its name, by what it has said and by its last use.

    A session is in use or paused. Of paused ones without a name the prompts are hashed: the next
    prompt of a session begins with its last one.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._paused: OrderedDict[str, Session] = OrderedDict()  # the longest paused first
        self._by_prompt: dict[bytes, list[Session]] = {}
        self._prompt_lengths: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_paused(self) -> int:
        """Sessions that are not in use."""
        return len(self._paused)

    def find(self, session_id: str) -> Session | None:
        """The session of that name."""
        return self._sessions.get(session_id)

    def is_paused(self, session: Session) -> bool:
        """Whether it is not in use."""
        return session.session_id in self._paused

    def add(self, session: Session) -> None:
        """A session begins, in use."""
        self._sessions[session.session_id] = session

    def pause(
        self, session: Session, tokens: array[int], num_prompt_tokens: int, now_s: float
    ) -> None:
        """A session in use is not any more; its last turn was these tokens."""
        session.tokens, session.num_prompt_tokens = tokens, num_prompt_tokens
        session.paused_at_s = now_s
        self._paused[session.session_id] = session
        if not session.named:
            digest = next(_digests(tokens, [num_prompt_tokens]))
            self._by_prompt.setdefault(digest, []).append(session)
            self._prompt_lengths[num_prompt_tokens] += 1

    def use(self, session: Session) -> None:
        """A paused session is in use again."""
        del self._paused[session.session_id]
        if not session.named:
            length = session.num_prompt_tokens
            digest = next(_digests(session.tokens, [length]))
            self._by_prompt[digest].remove(session)
            if not self._by_prompt[digest]:
                del self._by_prompt[digest]
            self._prompt_lengths[length] -= 1
            if not self._prompt_lengths[length]:
                del self._prompt_lengths[length]

    def remove(self, session: Session) -> None:
        """A session ends."""
        if self.is_paused(session):
            self.use(session)
        del self._sessions[session.session_id]

    def longest_paused(self) -> Session | None:
        """The paused session that was used least recently."""
        return next(iter(self._paused.values()), None)

    def match(self, prompt: array[int]) -> Session | None:
        """The paused session without a name that this prompt goes on with.

        Its last prompt is the beginning of this one. Of several it is the one that has most tokens
        in common, then the one used last: an answer may come back in other tokens, because text
        was made of them in between.
        """
        lengths = sorted(length for length in self._prompt_lengths if length < len(prompt))
        found = [
            session
            for digest in _digests(prompt, lengths)
            for session in self._by_prompt.get(digest, ())
        ]
        return max(
            found,
            key=lambda session: (common_prefix(session.tokens, prompt), session.paused_at_s),
            default=None,
        )


def common_prefix(a: array[int], b: array[int]) -> int:
    """How many tokens two sequences have in common from the beginning on."""
    low, high = 0, min(len(a), len(b))
    # Slices of arrays compare at the speed of memory.
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _digests(tokens: array[int], lengths: Sequence[int]) -> Iterator[bytes]:
    """Digest of each prefix; ``lengths`` ascend."""
    content, hashed = memoryview(tokens).cast("B"), hashlib.blake2b(digest_size=16)
    done = 0
    for length in lengths:
        hashed.update(content[done * _ITEM_BYTES : length * _ITEM_BYTES])
        done = length
        yield hashed.copy().digest()
