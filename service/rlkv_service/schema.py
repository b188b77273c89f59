"""What engines and deciders say to each other: requests, verdicts, outcomes, ends of sessions.

MessagePack, one version for all of it, maps with named fields: a reader ignores fields it does not
know, and refuses a version it cannot read. Decisions travel as columns: a request holds up to
``MAX_ROWS`` of them, a fact that is the same for all rows is sent once. docs/schema.md has the
table. Raw columns are little-endian.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, TypeVar

import msgspec

from rlkv_engine.errors import RlkvError

#: Raised when an older reader would misread a message.
SCHEMA_VERSION = 1
#: Decisions in one request.
MAX_ROWS = 1024
#: A message larger than this is refused unread.
MAX_BYTES = 4 * 2**20
#: Of names: engines, sessions, tools.
MAX_NAME_LENGTH = 256


class SchemaError(RlkvError):
    """A message cannot be read or does not make sense; the text names the field."""


class Verb(IntEnum):
    """What becomes of the KV of a paused session."""

    PRESERVE = 0
    SWAP = 1
    DISCARD = 2


class Point(IntEnum):
    """When a decision is asked: a pause begins, or memory is short for somebody (a REVISIT)."""

    CALL = 0
    NEW = 1
    RESUME = 2
    GROW = 3


class Reason(IntEnum):
    """Who decided a row, and why. From ``LATE`` on it was the client, without an answer."""

    POLICY = 0  #: the learned policy
    UNSURE = 1  #: the rule: the policy's confidence is below the threshold
    OUTSIDE = 2  #: the rule: facts outside of what the policy was trained on
    NO_POLICY = 3  #: the rule: the bundle has nothing better on a machine like this
    SHADOW = 4  #: the rule: the policy only watches
    LATE = 5  #: the local rule: the deadline passed
    DISCONNECTED = 6  #: the local rule: no server is reached
    MALFORMED = 7  #: the local rule: the answer cannot be read
    MISMATCHED = 8  #: the local rule: the answer is for another request
    BREAKER_OPEN = 9  #: the local rule: the sidecar was dead lately and is not asked
    NOT_ASKED = 10  #: the local rule: too many requests are under way
    STALE = 11  #: the local rule: the answer at hand is too old
    REFUSED = 12  #: the local rule: the sidecar refused the request


#: Reasons for which a local rule answered in the place of a sidecar.
LOCAL_REASONS = tuple(reason for reason in Reason if reason >= Reason.LATE)


#: A name that is checked when it is read.
Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_LENGTH)]


class DecisionRequest(msgspec.Struct, omit_defaults=True, tag_field="type", tag="decide"):
    """Decisions of one engine at one moment, as columns of ``n`` rows."""

    v: int
    id: int  #: echoed in the answer
    engine_id: Name
    sessions: list[Name]  # [n]
    turns: bytes  # int32 [n], the turn that ended with the call, counted from 0
    tools: list[Name]  # [n]
    facts: dict[str, bytes]  # by facts.FACTS name: float64 [n] or [1]; absent: the fact's default
    profile_id: str = ""
    reply_to: str = ""  #: where the answer goes; empty over HTTP
    #: When the answer is of no use any more, in the clock of the server between the two, seconds.
    deadline_s: float | None = None


class Verdicts(msgspec.Struct, omit_defaults=True, tag_field="type", tag="verdicts"):
    """The answer to a request, row by row."""

    v: int
    id: int
    policy_version: str  #: of the bundle, one for all rows
    verb: bytes  # int8 [n]
    lease_s: bytes  # float32 [n], for how long PRESERVE is promised; infinite without an end
    soft_priority: bytes  # int8 [n], 0 (take first) to 100
    expected_return_p50_s: bytes  # float32 [n], from now
    expected_return_p90_s: bytes  # float32 [n]
    confidence: bytes  # float32 [n], chance that the policy's verb is no worse than the rule's
    fallback_used: bytes  # int8 [n], 1: a rule answered
    reason: bytes  # int8 [n], see Reason
    rule_verb: bytes = b""  # int8 [n], what the rule said
    policy_verb: bytes = b""  # int8 [n], what the policy said, also where the rule decided


class Refusal(msgspec.Struct, omit_defaults=True, tag_field="type", tag="refusal"):
    """The answer to a request that cannot be read or makes no sense."""

    v: int
    id: int
    reason: str


class Outcome(msgspec.Struct, omit_defaults=True, tag_field="type", tag="outcome"):
    """What came of a pause; one for each session and turn, sent again it counts once."""

    v: int
    engine_id: str
    session: str
    turn: int
    tool: str
    pause_s: float
    context_tokens: int  #: when the pause began
    input_tokens: int = 0  #: of this turn's prompt
    output_tokens: int = 0  #: generated in this turn
    new_tokens: int = 0  #: that the tool's answer added to the next prompt
    reused_device_tokens: int = 0  #: of the next prompt, found on the device
    reused_host_tokens: int = 0  #: copied in
    recomputed_tokens: int = 0  #: of the context, computed again
    delay_s: float = 0.0  #: return of the tool to the next token
    verb: int = -1  #: what was decided last; -1: nobody asked
    policy_version: str = ""
    started_s: float = 0.0  #: when the session arrived, seconds since the epoch
    ended_s: float = 0.0  #: when the pause was over, seconds since the epoch


class SessionEnd(msgspec.Struct, omit_defaults=True, tag_field="type", tag="end"):
    """A session is over: what is kept of it is worth nothing any more."""

    v: int
    engine_id: str
    session: str
    turn: int = 0  #: its last one
    input_tokens: int = 0  #: of that turn's prompt
    output_tokens: int = 0  #: generated in it
    started_s: float = 0.0
    ended_s: float = 0.0


Message = DecisionRequest | Verdicts | Refusal | Outcome | SessionEnd
M = TypeVar("M", bound=msgspec.Struct)


class _Versioned(msgspec.Struct):
    """What every version of every message has."""

    v: int
    id: int = 0


#: What msgspec raises for bytes that are no message; text that is no UTF-8 is not its own error.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)
_encoder = msgspec.msgpack.Encoder()
_answer_decoder = msgspec.msgpack.Decoder(Verdicts | Refusal)
_version_decoder = msgspec.msgpack.Decoder(_Versioned)


def encode(message: Message) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message)


def decode(payload: bytes | memoryview, kind: type[M]) -> M:
    """A message of a kind from bytes, of the right version.

    Raises:
        SchemaError: it cannot be read; the text says where, or both versions.
    """
    return _checked(payload, _decoder(kind))


def decode_answer(payload: bytes | memoryview) -> Verdicts | Refusal:
    """What came back for a request.

    Raises:
        SchemaError: it cannot be read; the text says where, or both versions.
    """
    answer: Verdicts | Refusal = _checked(payload, _answer_decoder)
    return answer


def _checked(payload: bytes | memoryview, decoder: msgspec.msgpack.Decoder[M]) -> M:
    if len(payload) > MAX_BYTES:
        raise SchemaError(f"a message of {len(payload)} bytes, at most {MAX_BYTES} are read")
    try:
        message = decoder.decode(payload)
    except _UNREADABLE as error:
        # Of a newer version the fields may differ: that is then what is wrong.
        check_version(version_of(payload)[0])
        raise SchemaError(str(error)) from error
    except RecursionError as error:
        raise SchemaError("nested too deep") from error
    check_version(message.v)  # type: ignore[attr-defined]
    return message


def version_of(payload: bytes | memoryview) -> tuple[int, int]:
    """Version and id of a message that may be of any version; the id is 0 where there is none.

    Raises:
        SchemaError: it has none.
    """
    try:
        message = _version_decoder.decode(payload)
    except (*_UNREADABLE, RecursionError) as error:
        raise SchemaError(f"no message: {error}") from error
    return message.v, message.id


def check_version(version: int) -> None:
    """Raises ``SchemaError`` unless messages of a version can be read."""
    if version != SCHEMA_VERSION:
        raise SchemaError(f"a message of version {version}, this rlkv reads {SCHEMA_VERSION}")


_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind)
    for kind in (DecisionRequest, Verdicts, Refusal, Outcome, SessionEnd)
}


def _decoder(kind: type[M]) -> msgspec.msgpack.Decoder[M]:
    return _decoders[kind]
