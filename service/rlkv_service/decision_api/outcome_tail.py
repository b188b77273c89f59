"""The latest outcomes of a deployment, whoever reported them, and the sidecars that are alive."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from rlkv_service.redis_errors import reply_to
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.resp_parser import Reply
from rlkv_service.schema import Outcome, SchemaError, decode

#: Outcomes that are read at a time; of more in a second the oldest are skipped.
_MAX_OUTCOMES = 1000
#: Of one look at the store, seconds.
_TIMEOUT_S = 0.5


class OutcomeTail:
    """Looks at the stream of outcomes from time to time. Not for several threads at once.

    Args:
        url: the Redis or Valkey server.
        keys: of the deployment.
    """

    def __init__(self, url: RedisURL, keys: RedisKeys) -> None:
        self._url, self._keys = url, keys
        self._connection: RespConnection | None = None
        self._last_id = b"0-0"

    def poll(self) -> tuple[list[Outcome], dict[str, Any]]:
        """Outcomes since the last look, oldest first, and what sidecars say of themselves, by id.

        Raises:
            RedisError: the server does not answer.
        """
        if self._connection is None or self._connection.is_closed:
            self._connection = RespConnection(self._url, _TIMEOUT_S)
        entries, hash_ = self._connection.pipeline(
            (
                ("XREVRANGE", self._keys.outcomes, "+", b"(" + self._last_id, "COUNT",
                 _MAX_OUTCOMES),
                ("HGETALL", self._keys.sidecars),
            ),
            deadline_s=time.monotonic() + _TIMEOUT_S,
        )  # fmt: skip
        for reply in (entries, hash_):
            if isinstance(reply, Exception):
                raise reply
        with reply_to("XREVRANGE or HGETALL"):
            read = [_outcome(fields) for _, fields in reversed(entries)]
            sidecars = _sidecars(hash_)
            if entries:
                self._last_id = bytes(entries[0][0])
        return [each for each in read if each is not None], sidecars

    def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._connection.close()


def _outcome(fields: Reply) -> Outcome | None:
    try:
        return decode(dict(zip(fields[::2], fields[1::2], strict=True))[b"m"], Outcome)
    # The end of a session, or what another version wrote.
    except (SchemaError, KeyError, ValueError):
        return None


def _sidecars(fields: list[bytes]) -> dict[str, Any]:
    told = {}
    for name, said in zip(fields[::2], fields[1::2], strict=True):
        try:
            told[name.decode(errors="replace")] = msgspec.json.decode(said)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    return told
