from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.resp_parser import RespParser, encode_command

LINE = st.text("abc -_", max_size=10)
REPLY: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.integers(-(2**63), 2**63 - 1),
        st.binary(max_size=50),
        LINE.map(RedisReplyError),
    ),
    lambda replies: st.lists(replies, max_size=4),
    max_leaves=20,
)


def encode_reply(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, RedisReplyError):
        return b"-" + str(reply).encode() + b"\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(map(encode_reply, reply))


def plain(reply: Any) -> Any:
    """Errors are equal to nothing."""
    if isinstance(reply, RedisReplyError):
        return ("refused", str(reply))
    return [plain(each) for each in reply] if isinstance(reply, list) else reply


def depth(reply: Any) -> int:
    return 1 + max(map(depth, reply), default=0) if isinstance(reply, list) else 0


@given(st.lists(REPLY.filter(lambda reply: depth(reply) <= 8), max_size=6), st.data())
def test_replies_are_read_whatever_pieces_they_come_in(replies: list[Any], data: Any) -> None:
    raw = b"".join(map(encode_reply, replies))
    parser, found, at = RespParser(), [], 0
    while at < len(raw):
        size = data.draw(st.integers(1, len(raw) - at))
        found += parser.feed(raw[at : at + size])
        at += size
    assert plain(found) == plain(replies)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_garbage_is_refused_or_incomplete(raw: bytes, size: int) -> None:
    parser = RespParser()
    try:
        for at in range(0, len(raw), size):
            parser.feed(raw[at : at + size])
    except RedisError as error:
        assert "does not speak RESP" in str(error)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"?\r\n", "begins with b'\\?'"),
        (b"HTTP/1.1 400 Bad Request\r\n", "begins with b'H'"),
        (b"$3\r\nabcde", "does not end where it should"),
        (b"$999999999999\r\n", "a reply of 999999999999 bytes"),
        (b"$x\r\n", "invalid literal"),
        (b"x" * 70_000, "a line without end"),
        (b"*1\r\n" * 9, "nested too deep"),
    ],
)
def test_what_is_no_resp_is_said(raw: bytes, why: str) -> None:
    with pytest.raises(RedisError, match=why):
        RespParser().feed(raw)


def test_a_command_is_an_array_of_texts() -> None:
    assert encode_command("A", b"\x00", 7, 0.5) == (
        b"*4\r\n$1\r\nA\r\n$1\r\n\x00\r\n$1\r\n7\r\n$3\r\n0.5\r\n"
    )
