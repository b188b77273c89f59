"""The clock of the Redis server, which clients and sidecars of different hosts share."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rlkv_service.resp import RespConnection


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
        seconds, micros = connection.execute("TIME", deadline_s=deadline_s)
        self.hear((seconds, micros), 0.5 * (before_s + time.monotonic()))

    def hear(self, reply: Sequence[bytes], monotonic_s: float) -> None:
        """Sets it from a reply to TIME that was written when ``time.monotonic`` said so much."""
        seconds, micros = reply
        self._offset_s = int(seconds) + int(micros) * 1e-6 - monotonic_s

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
