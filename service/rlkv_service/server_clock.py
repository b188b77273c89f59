"""The clock of the Redis server, which clients and sidecars of different hosts share."""

from __future__ import annotations

import math
import time

from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.resp import RespConnection
from rlkv_service.resp_parser import Reply


class ServerClock:
    """Tells the server's time from our monotonic clock: a jump of our wall clock moves nothing."""

    def __init__(self) -> None:
        self._offset_s = math.nan

    def set(self, connection: RespConnection, deadline_s: float | None = None) -> None:
        """Asks the server; do it again now and then, clocks drift and servers are replaced.

        Raises:
            RedisError: it does not answer.
        """
        before_s = time.monotonic()
        reply = connection.execute("TIME", deadline_s=deadline_s)
        self.learn(reply, before_s, time.monotonic())

    def learn(self, reply: Reply, before_s: float, after_s: float) -> None:
        """Takes the reply to a TIME that was sent and answered at these monotonic times.

        Raises:
            RedisError: it is no time.
        """
        if isinstance(reply, RedisReplyError):
            raise reply
        match reply:
            case [bytes(seconds), bytes(micros)] if seconds.isdigit() and micros.isdigit():
                server_s = int(seconds) + 1e-6 * int(micros)
            case _:
                raise RedisError(f"the server's time is {str(reply)[:80]}")
        self._offset_s = server_s - 0.5 * (before_s + after_s)

    @property
    def is_set(self) -> bool:
        """Whether the server has ever said what time it is."""
        return not math.isnan(self._offset_s)

    def now_s(self) -> float:
        """The server's time, seconds since the epoch; NaN before ``set``."""
        return time.monotonic() + self._offset_s

    def at(self, monotonic_s: float) -> float:
        """The server's time when ``time.monotonic`` says so much."""
        return monotonic_s + self._offset_s
