"""What a request repeats of its conversation, as digests: who goes on with what is found by them.

A chat goes on with another if it begins with all of that one's messages, and the answer it was
given stands behind them. Nothing of what was said is kept, only digests and, of a prompt that is
text, up to a block of its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec

from rlkv_service.proxy.answers import Answer, Choice

_BLOCK_BYTES = 512
_DIGEST_BYTES = 16
_BY_ID = -1
#: Digest of what a request begins with, and the answers of which one has to stand behind it.
Continuation = tuple[bytes, frozenset[bytes]]


class Conversation(Protocol):
    """What a request repeats."""

    @property
    def num_answers(self) -> int:
        """Answers in it, at least."""

    def prefixes(self) -> Iterator[tuple[bytes, int]]:
        """Digests of what it begins with, and the places where each ends; the longest first."""

    def marks_at(self, place: int, lengths: Iterable[int]) -> Iterable[bytes]:
        """Marks of the answer that stands at a place; text has one of each of these lengths."""

    def continued(self, answer: Answer) -> list[Continuation]:
        """How a request begins that goes on; empty: it cannot be known again."""


class Chat:
    """Messages.

    Args:
        seed: what else has to be the same: model, system prompt.
        messages: each as raw JSON.
        read_answer: the answer that a message repeats; None: it is no answer.
    """

    def __init__(
        self,
        seed: bytes,
        messages: Sequence[bytes],
        read_answer: Callable[[bytes], Choice | None],
    ) -> None:
        self._messages, self._read_answer = messages, read_answer
        digest, self._digests = _hash(seed), list[bytes]()
        for message in messages:
            digest = _hash(digest + message)
            self._digests.append(digest)

    @property
    def num_answers(self) -> int:
        """Messages of the model."""
        return sum(b'"assistant"' in message for message in self._messages)

    def prefixes(self) -> Iterator[tuple[bytes, int]]:
        """At least one message stands behind each."""
        for place in range(len(self._messages) - 1, 0, -1):
            yield self._digests[place - 1], place

    def marks_at(self, place: int, lengths: Iterable[int]) -> Iterable[bytes]:
        """Of the message there; none if it is no answer."""
        said = self._read_answer(self._messages[place])
        return () if said is None else said.marks()

    def continued(self, answer: Answer) -> list[Continuation]:
        """All messages, and an answer behind them."""
        marks = frozenset(mark for choice in answer.choices for mark in choice.marks())
        if not marks or not self._digests:
            return []
        return [(self._digests[-1], marks)]


class Prompt:
    """Text of a completion.

    Args:
        seed: what else has to be the same.
        text: the prompt.
    """

    def __init__(self, seed: bytes, text: str) -> None:
        self._text = text.encode(errors="surrogatepass")
        self._seed = _hash(seed)

    @property
    def num_answers(self) -> int:
        """Nobody knows."""
        return 0

    def prefixes(self) -> Iterator[tuple[bytes, int]]:
        """Whole blocks."""
        digests = _blocks(self._seed, self._text)
        for place in range(len(digests) - 1, -1, -1):
            yield digests[place], place * _BLOCK_BYTES

    def marks_at(self, place: int, lengths: Iterable[int]) -> Iterable[bytes]:
        """What would be the rest of prompt and answer, less than a block."""
        left = len(self._text) - place
        return (self._text[place : place + length] for length in lengths if length <= left)

    def continued(self, answer: Answer) -> list[Continuation]:
        """Prompt and answer as one text; with several answers nobody knows which."""
        if len(answer.choices) != 1 or not answer.choices[0].text:
            return []
        text = self._text + answer.choices[0].text.encode(errors="surrogatepass")
        digests = _blocks(self._seed, text)
        return [(digests[-1], frozenset((text[(len(digests) - 1) * _BLOCK_BYTES :],)))]


class Responses:
    """A request that may name the answer it goes on with, as OpenAI's responses do.

    Args:
        seed: what else has to be the same.
        previous: the id of that answer; empty: none is named.
        items: all that was said, where it is all sent.
    """

    def __init__(self, seed: bytes, previous: str, items: Chat | None) -> None:
        self._seed, self._previous, self._items = seed, previous, items

    @property
    def num_answers(self) -> int:
        """Those that are repeated."""
        return 0 if self._items is None else self._items.num_answers

    def prefixes(self) -> Iterator[tuple[bytes, int]]:
        """The answer that is named, or what the items begin with."""
        if self._previous:
            yield self._digest(self._previous), _BY_ID
        elif self._items is not None:
            yield from self._items.prefixes()

    def marks_at(self, place: int, lengths: Iterable[int]) -> Iterable[bytes]:
        """Whoever knows an answer's id goes on with it."""
        if place == _BY_ID:
            return (b"",)
        return () if self._items is None else self._items.marks_at(place, lengths)

    def continued(self, answer: Answer) -> list[Continuation]:
        """By the answer's id, or by all that was said."""
        found = [] if self._items is None else self._items.continued(answer)
        if answer.response_id:
            found.append((self._digest(answer.response_id), frozenset((b"",))))
        return found

    def _digest(self, response_id: str) -> bytes:
        return _hash(self._seed + b"id" + response_id.encode(errors="surrogatepass"))


def canonical_message(message: bytes) -> bytes:
    """A message without marks that wander from turn to turn: ``cache_control``."""
    return msgspec.json.encode(_without_marks(msgspec.json.decode(message)))


def _without_marks(value: object) -> object:
    if isinstance(value, dict):
        return {
            name: _without_marks(each) for name, each in value.items() if name != "cache_control"
        }
    if isinstance(value, list):
        return [_without_marks(each) for each in value]
    return value


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _blocks(seed: bytes, text: bytes) -> list[bytes]:
    """Digests of the first 0, 1, 2... whole blocks."""
    digests = [seed]
    for start in range(0, len(text) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
        digests.append(_hash(digests[-1] + text[start : start + _BLOCK_BYTES]))
    return digests
