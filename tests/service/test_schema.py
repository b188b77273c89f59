from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_service.schema import (
    MAX_BYTES,
    DecisionRequest,
    Outcome,
    Refusal,
    SchemaError,
    SessionEnd,
    Verdicts,
    decode,
    decode_answer,
    encode,
    version_of,
)

KINDS = (DecisionRequest, Verdicts, Refusal, Outcome, SessionEnd)
NAME = st.text(max_size=10)
COLUMN = st.binary(max_size=16)
MESSAGE = st.one_of(
    st.builds(
        DecisionRequest,
        st.just(1), st.integers(0, 2**63), NAME, st.lists(NAME, max_size=3), COLUMN,
        st.lists(NAME, max_size=3), st.dictionaries(NAME, COLUMN, max_size=3), NAME, NAME,
        st.none() | st.floats(allow_nan=False),
    ),
    st.builds(Verdicts, st.just(1), st.integers(0, 2**63), NAME, *[COLUMN] * 10),
    st.builds(Refusal, st.just(1), st.integers(0, 2**63), NAME),
    st.builds(
        Outcome,
        st.just(1), NAME, NAME, st.integers(0, 2**31), NAME, st.floats(0, 1e6),
        *[st.integers(0, 2**31)] * 7,
    ),
    st.builds(SessionEnd, st.just(1), NAME, NAME, st.integers(0, 2**31)),
)  # fmt: skip


@given(MESSAGE)
def test_messages_come_back_as_they_were(message: Any) -> None:
    assert decode(encode(message), type(message)) == message


def fields(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.msgpack.decode(encode(message))
    return found


OUTCOME = Outcome(1, "e", "s", 0, "search", 1.5, 100)


def test_a_field_that_a_reader_does_not_know_is_ignored() -> None:
    raw = msgspec.msgpack.encode({**fields(OUTCOME), "mood": {"of": ["the", "day"]}})
    assert decode(raw, Outcome) == OUTCOME


@pytest.mark.parametrize("change", [{}, {"tool": 7}, {"turn": None}])
def test_a_version_that_cannot_be_read_is_refused_with_both_numbers(change: Any) -> None:
    raw = msgspec.msgpack.encode({**fields(OUTCOME), **change, "v": 2})
    with pytest.raises(SchemaError, match="version 2, this rlkv reads 1"):
        decode(raw, Outcome)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tool": 7}, r"\$\.tool"),
        ({"pause_s": "long"}, r"\$\.pause_s"),
        ({"type": "end"}, r"\$\.type"),
    ],
)
def test_a_wrong_field_is_named(change: Any, why: str) -> None:
    with pytest.raises(SchemaError, match=why):
        decode(msgspec.msgpack.encode({**fields(OUTCOME), **change}), Outcome)


def test_a_missing_field_is_named() -> None:
    partial = fields(OUTCOME)
    del partial["session"]
    with pytest.raises(SchemaError, match="session"):
        decode(msgspec.msgpack.encode(partial), Outcome)


def test_the_id_of_any_version_can_be_read() -> None:
    assert version_of(msgspec.msgpack.encode({"v": 9, "id": 7, "what": "ever"})) == (9, 7)
    assert version_of(encode(OUTCOME)) == (1, 0)
    with pytest.raises(SchemaError, match="no message"):
        version_of(b"\xc1")


def test_an_answer_is_verdicts_or_a_refusal() -> None:
    refusal = Refusal(1, 3, "no")
    verdicts = Verdicts(1, 3, "v", *[b"\0"] * 8)
    assert decode_answer(encode(refusal)) == refusal
    assert decode_answer(encode(verdicts)) == verdicts
    with pytest.raises(SchemaError, match="type"):
        decode_answer(encode(OUTCOME))


def test_what_is_too_large_or_too_deep_is_not_read() -> None:
    with pytest.raises(SchemaError, match="at most 4194304"):
        decode(bytes(MAX_BYTES + 1), Outcome)
    deep = msgspec.msgpack.encode({**fields(OUTCOME), "zzz": 0})[:-1] + b"\x91" * 100_000 + b"\0"
    with pytest.raises(SchemaError):
        decode(deep, Outcome)


def test_text_that_is_no_utf_8_is_a_message_that_cannot_be_read() -> None:
    raw = encode(OUTCOME).replace(b"search", b"sear\xff\xfe")
    with pytest.raises(SchemaError, match="utf-8"):
        decode(raw, Outcome)


@given(st.sampled_from(KINDS), st.one_of(st.binary(max_size=60), MESSAGE.map(encode)), st.data())
def test_whatever_comes_is_read_or_refused(kind: Any, raw: bytes, data: Any) -> None:
    if raw:
        at = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + bytes([data.draw(st.integers(0, 255))]) + raw[at + 1 :]
    for read in (lambda raw: decode(raw, kind), decode_answer, version_of):
        try:
            read(raw)
        except SchemaError as error:
            assert str(error)
