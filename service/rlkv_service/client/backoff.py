"""How long to wait before trying again."""

from __future__ import annotations

from random import Random


class Backoff:
    """Waits that double up to a limit, each shortened by chance so that clients spread out.

    Args:
        first_s: the first wait, seconds.
        max_s: the longest.
        jitter_ratio: up to this share of a wait is left off, 0 to 1.
        random: where chance comes from.
    """

    def __init__(self, first_s: float, max_s: float, jitter_ratio: float, random: Random) -> None:
        self._first_s, self._max_s, self._jitter_ratio = first_s, max_s, jitter_ratio
        self._random = random
        self._wait_s = first_s

    def next_s(self) -> float:
        """The next wait, seconds."""
        wait_s = self._wait_s
        self._wait_s = min(2.0 * wait_s, self._max_s)
        return wait_s * (1.0 - self._jitter_ratio * self._random.random())

    def reset(self) -> None:
        """What was tried works: the next wait is a first one."""
        self._wait_s = self._first_s
