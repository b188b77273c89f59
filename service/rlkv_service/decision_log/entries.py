"""Entries of the streams ``decisions`` and ``outcomes``, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from rlkv_service.redis_errors import reply_to
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.resp import RespConnection
from rlkv_service.resp_parser import Reply
from rlkv_service.schema import (
    MAX_BYTES,
    Outcome,
    SchemaError,
    SessionEnd,
    check_version,
    version_of,
)

#: Entries of a page. A decision of 1,024 rows has up to 0.4 MB.
PAGE = 128
#: Before every entry.
BEGINNING = "0-0"

_outcome_decoder = msgspec.msgpack.Decoder(Outcome | SessionEnd)


class StreamEntry(NamedTuple):
    """One entry of a stream."""

    entry_id: str
    fields: dict[bytes, bytes]


def decode_outcome(payload: bytes) -> Outcome | SessionEnd:
    """A message of the stream ``outcomes``.

    Raises:
        SchemaError: it cannot be read; the text says where, or both versions.
    """
    if len(payload) > MAX_BYTES:
        raise SchemaError(f"a message of {len(payload)} bytes, at most {MAX_BYTES} are read")
    try:
        message: Outcome | SessionEnd = _outcome_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        check_version(version_of(payload)[0])
        raise SchemaError(str(error)) from error
    check_version(message.v)
    return message


def entries_of(reply: Reply) -> list[StreamEntry]:
    """The entries of a reply to XRANGE, or of one stream in a reply to XREAD."""
    return [
        StreamEntry(entry_id.decode(), dict(zip(fields[::2], fields[1::2], strict=True)))
        for entry_id, fields in reply
        if fields is not None
    ]


def read_stream(
    connection: RespConnection, key: str, *, since_s: float | None = None,
    until_s: float | None = None, page: int = PAGE,
) -> Iterator[list[StreamEntry]]:  # fmt: skip
    """Pages of a stream, oldest first; what is added meanwhile is read too, up to ``until_s``.

    Args:
        connection: to the server.
        key: of the stream; one that does not exist has no entries.
        since_s: entries before this time are left out, seconds since the epoch.
        until_s: entries at this time or later are left out.
        page: entries that are in memory at a time.

    Raises:
        RedisError: the server is gone, or refuses.
    """
    start = "-" if since_s is None else f"{max(0, round(since_s * 1000))}-0"
    end = "+" if until_s is None else f"({max(0, round(until_s * 1000))}-0"
    while True:
        with reply_to("XRANGE"):
            entries = entries_of(connection.execute("XRANGE", key, start, end, "COUNT", page))
        if entries:
            yield entries
        if len(entries) < page:
            return
        start = f"({entries[-1].entry_id}"


def id_parts(entry_id: str) -> tuple[int, int]:
    """Milliseconds and number of an entry, by which entries are in order.

    Raises:
        SchemaError: it is no id.
    """
    parts = entry_id.split("-")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) <= 20 for part in parts):
        raise SchemaError(f"{entry_id[:64]!r} is no id of a stream entry")
    return int(parts[0]), int(parts[1])


def last_id(connection: RespConnection, key: str) -> str:
    """Id of the last entry that a stream has ever had; ``BEGINNING`` without a stream.

    Raises:
        RedisError: the server is gone, or refuses.
    """
    exists, info = connection.pipeline([("EXISTS", key), ("XINFO", "STREAM", key)])
    if exists == 0:
        return BEGINNING
    if isinstance(info, Exception):
        raise info
    with reply_to("XINFO"):
        fields = dict(zip(info[::2], info[1::2], strict=True))
        found = str(fields[b"last-generated-id"].decode())
        id_parts(found)
    return found


def outcome_entries(
    connection: RespConnection, keys: RedisKeys, after: str, *, count: int, block_s: float = 0.0,
    deadline_s: float | None = None,
) -> list[StreamEntry]:  # fmt: skip
    """The next entries of ``outcomes`` after an id; waits for them where there are none.

    Raises:
        RedisError: the server is gone, or refuses.
    """
    wait = ("BLOCK", max(1, round(block_s * 1000))) if block_s > 0.0 else ()
    reply = connection.execute(
        "XREAD", "COUNT", count, *wait, "STREAMS", keys.outcomes, after, deadline_s=deadline_s
    )
    with reply_to("XREAD"):
        entries = entries_of(reply[0][1]) if reply else []
        for entry in entries:
            id_parts(entry.entry_id)  # the next call begins there
    return entries
