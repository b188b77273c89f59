"""How often one client may ask: a token bucket each."""

from __future__ import annotations

from collections.abc import Callable


class RateLimit:
    """Lets a request through while its client's bucket has one left.

    A bucket holds a second's worth, at least one, and fills all the time.

    Args:
        now_s: a clock that never goes back, seconds.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._buckets: dict[str, tuple[float, float]] = {}  # name -> what is left, and when

    def wait_s(self, name: str, requests_per_s: float) -> float:
        """Takes one from a client's bucket; if it is empty, so long it must wait, seconds."""
        now_s, size = self._now_s(), max(1.0, requests_per_s)
        left, at_s = self._buckets.get(name, (size, now_s))
        left = min(size, left + (now_s - at_s) * requests_per_s)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / requests_per_s
        self._buckets[name] = (left if wait_s else left - 1.0, now_s)
        return wait_s
