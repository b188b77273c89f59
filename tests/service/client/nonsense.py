"""A server whose replies are RESP, and to something else than what was asked."""

from __future__ import annotations

import random
from typing import Any

from rlkv_service.redis_errors import RedisReplyError
from rlkv_service.resp_parser import RespParser

#: What no command of a sidecar replies, or not this one.
NONSENSE: tuple[Any, ...] = (
    1, -1, b"", b"OK", b"\xff" * 9, None, [], [None], [[]], [b"a"], [1, 2], [b"a", b"b", b"c"],
    [[b"key", [[b"no id", [b"m", b"x"]]]]], [[b"key", [[b"1-1", 5]]]], [b"key", 1], [b"key", [1]],
    [b"1700000000", b"now"], [b"last-generated-id", b"x"], [b"sidecar", 1],
    RedisReplyError("ERR nonsense"),
)  # fmt: skip


def encoded(reply: Any) -> bytes:
    match reply:
        case RedisReplyError():
            return b"-%s\r\n" % str(reply).encode()
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encoded, reply))
    return b"$%d\r\n%s\r\n" % (len(reply), reply)


class RandomReplies:
    """Puts nonsense in the place of some replies, as many as there were."""

    def __init__(self, seed: int, share: float) -> None:
        self._random, self._share, self.num_replaced = random.Random(seed), share, 0

    def __call__(self, raw: bytes) -> bytes:
        replies = RespParser().feed(raw)
        if b"".join(map(encoded, replies)) != raw:
            return raw  # a part of a reply
        return b"".join(map(self._perhaps, replies))

    def _perhaps(self, reply: Any) -> bytes:
        if self._random.random() >= self._share:
            return encoded(reply)
        self.num_replaced += 1
        return encoded(self._random.choice(NONSENSE))
