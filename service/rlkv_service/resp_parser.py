"""RESP2 without a socket: bytes in, replies out, in whatever pieces the bytes come."""

from __future__ import annotations

from typing import Any

from rlkv_service.redis_errors import RedisError, RedisReplyError

Word = bytes | str | int | float
#: What a reply is: text, a number, nothing, or a list of these. A refusal is a RedisReplyError.
Reply = Any

#: A reply longer than this is not from a server that we know.
MAX_REPLY_BYTES = 1 << 29
_MAX_LINE_BYTES = 1 << 16
_MAX_DEPTH = 8
_TEXT, _BULK, _ARRAY, _NUMBER, _REFUSAL = b"+$*:-"


def encode_command(*words: Word) -> bytes:
    """A command as RESP."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts += (b"$%d\r\n" % len(raw), raw, b"\r\n")
    return b"".join(parts)


class RespParser:
    """The replies of one connection."""

    def __init__(self) -> None:
        self._rest = bytearray()  # of a reply, or of a part of one
        self._arrays: list[tuple[list[Reply], int]] = []  # begun, outermost first, and their sizes

    def feed(self, raw: bytes) -> list[Reply]:
        """The replies that are complete with these bytes, in order.

        Raises:
            RedisError: the bytes are no RESP; nothing that follows can be read.
        """
        self._rest += raw
        replies: list[Reply] = []
        try:
            read = self._read(replies)
        except ValueError as error:
            raise RedisError(f"the server does not speak RESP: {error}") from error
        del self._rest[:read]
        return replies

    def _read(self, replies: list[Reply]) -> int:
        """Reads what is complete; the number of bytes read."""
        rest, arrays, at = self._rest, self._arrays, 0
        while (end := rest.find(b"\r\n", at)) >= 0:
            kind = rest[at]
            line = bytes(rest[at + 1 : end])
            following = end + 2
            reply: Reply
            if kind == _BULK:
                size = int(line)
                if size > MAX_REPLY_BYTES:
                    raise ValueError(f"a reply of {size} bytes")
                if size < 0:
                    reply = None
                else:
                    following += size + 2
                    if len(rest) < following:
                        return at
                    if rest[following - 2 : following] != b"\r\n":
                        raise ValueError("a text does not end where it should")
                    reply = bytes(rest[end + 2 : following - 2])
            elif kind == _NUMBER:
                reply = int(line)
            elif kind == _TEXT:
                reply = line
            elif kind == _REFUSAL:
                reply = RedisReplyError(line.decode(errors="replace"))
            elif kind == _ARRAY:
                size = int(line)
                if size > 0:
                    if len(arrays) == _MAX_DEPTH:
                        raise ValueError("nested too deep")
                    arrays.append(([], size))
                    at = following
                    continue
                reply = [] if size == 0 else None
            else:
                raise ValueError(f"a reply begins with {bytes([kind])!r}")
            at = following
            while arrays:
                array, size = arrays[-1]
                array.append(reply)
                if len(array) < size:
                    break
                arrays.pop()
                reply = array
            else:
                replies.append(reply)
        # Garbage without an end is not to be kept; a text's first line is short.
        if len(rest) - at > _MAX_LINE_BYTES:
            raise ValueError("a line without end")
        return at
