"""Time as the engine sees it: that of the wall, or that of the cost model."""

from __future__ import annotations

import time
from typing import Protocol

#: Waited for in a loop.
_AWAKE_S = 2e-4


class Clock(Protocol):
    """Seconds since an engine began."""

    def now_s(self) -> float:
        """The time."""

    def spend(self, expected_s: float) -> None:
        """An iteration has ended that takes so long by the cost model."""

    def wait_until(self, until_s: float) -> None:
        """Nothing is to be done before that time."""


class WallClock:
    """Real time."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()

    def now_s(self) -> float:
        """Seconds since this clock was made."""
        return time.perf_counter() - self._start_s

    def spend(self, expected_s: float) -> None:
        """Time passes by itself."""

    def wait_until(self, until_s: float) -> None:
        """Sleeps, and is awake a little early: a sleep ends late, by some 0.1 ms."""
        left_s = until_s - self.now_s() - _AWAKE_S
        if left_s > 0:
            time.sleep(left_s)
        while self.now_s() < until_s:
            pass


class SimulatedClock:
    """An iteration takes what the profile says, and waiting takes no time."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """Seconds of iterations and waits so far."""
        return self._now_s

    def spend(self, expected_s: float) -> None:
        """Time moves on by an iteration."""
        self._now_s += expected_s

    def wait_until(self, until_s: float) -> None:
        """Time moves on to ``until_s``."""
        self._now_s = max(self._now_s, until_s)
