"""What a backend answered, as far as it says how its session goes on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from rlkv_service.schema import MAX_NAME_LENGTH

#: Who is waited for after an answer without a tool call.
HUMAN = "human"
_THOUGHT = "</think>"
#: A call in text, of a backend that leaves it there: Hermes' JSON, or Qwen3-Coder's XML.
_CALL_IN_TEXT = re.compile(r'<tool_call>\s*(?:\{\s*"name"\s*:\s*"([^"\\]+)"|<function=([^>\s]+)>)')


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call in an answer, or in a message that repeats it."""

    call_id: str
    name: str
    arguments: str  #: JSON text


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to a request, as a rule the only one."""

    text: str
    calls: Sequence[ToolCall] = ()

    def marks(self) -> Iterator[bytes]:
        """Digests by which the answer is known again, in whatever way its client repeats it.

        Of an answer with calls these count, ids and arguments with them: clients drop the text
        beside. Of text it is what stands behind the model's thoughts, too.
        """
        if self.calls:
            words = [(call.call_id, call.name, _canonical(call.arguments)) for call in self.calls]
            yield _digest(b"calls", msgspec.json.encode(words))
            return
        yield _digest(b"text", _plain(self.text))
        _, thought, said = self.text.rpartition(_THOUGHT)
        if thought:
            yield _digest(b"text", _plain(said))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a turn, as the backend counts them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None  #: None: the backend does not say


@dataclass(slots=True)
class Answer:
    """An answer that is over."""

    choices: list[Choice] = field(default_factory=list)
    usage: Usage | None = None
    is_whole: bool = False  #: whether the backend has said that it is over
    response_id: str = ""
    num_pieces: int = 0  #: of a stream, one a token or so
    first_piece_s: float | None = None  #: when the first one came, monotonic

    @property
    def tool(self) -> str:
        """Whom the session waits for: of several calls the first."""
        for choice in self.choices[:1]:
            if choice.calls:
                return tool_name(choice.calls[0].name)
            found = _CALL_IN_TEXT.search(choice.text)
            if found is not None:
                return tool_name(found[1] or found[2])
        return HUMAN


def tool_name(said: str) -> str:
    """What a model calls a tool, as the log of outcomes can take it."""
    readable = said.encode(errors="replace").decode()
    return readable[:MAX_NAME_LENGTH] or HUMAN


def _canonical(arguments: str) -> str:
    try:
        decoded = msgspec.json.decode(arguments)
        return msgspec.json.encode(decoded, order="sorted").decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return arguments.strip()


def _plain(text: str) -> bytes:
    return text.strip().encode(errors="surrogatepass")


def _digest(kind: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(kind + b"\0" + content, digest_size=16).digest()
