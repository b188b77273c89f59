"""When a client stops asking a sidecar that does not answer, and when it tries again.

Closed, every decision is asked. After some failures in a row it opens: nothing is asked, and from
time to time a probe in the background asks about one harmless row. When that is answered it is
half open: decisions are asked again, the first answer closes it, the first failure opens it for
longer than before. So a server that answers probes, but no decision in time, costs one deadline
for each probe and no more. No clock and no socket here: times are arguments, seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from random import Random

from rlkv_engine.errors import InputError
from rlkv_service.client.backoff import Backoff


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When to stop asking, and how often to try again."""

    max_failures: int = 3  #: in a row, then it opens
    first_probe_s: float = 0.05  #: after it has opened, at most
    max_probe_s: float = 5.0  #: between two probes, at most
    jitter_ratio: float = 0.5  #: up to this share of a wait is left off, by chance
    seed: int | None = None  #: of that chance

    def __post_init__(self) -> None:
        if self.max_failures < 1:
            raise InputError(f"max_failures must be at least 1, not {self.max_failures}")
        if not 0.0 < self.first_probe_s <= self.max_probe_s < math.inf:
            raise InputError(
                f"0 < first_probe_s <= max_probe_s, not {self.first_probe_s} and {self.max_probe_s}"
            )
        if not 0.0 <= self.jitter_ratio <= 1.0:
            raise InputError(f"jitter_ratio must be 0 to 1, not {self.jitter_ratio}")

    def backoff(self) -> Backoff:
        """Waits with these settings."""
        return Backoff(self.first_probe_s, self.max_probe_s, self.jitter_ratio, Random(self.seed))


class BreakerState(Enum):
    """Whether a sidecar is asked."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Breaker:
    """Of one client; it begins closed."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._max_failures = settings.max_failures
        self._backoff = settings.backoff()
        self._num_failures = 0
        self.state = BreakerState.CLOSED
        #: When to probe next; infinite unless it is open.
        self.probe_at_s = math.inf

    @property
    def is_open(self) -> bool:
        """Whether nothing is to be asked."""
        return self.state is BreakerState.OPEN

    def succeeded(self) -> None:
        """A decision was answered; one that was asked before it opened changes nothing."""
        if self.state is BreakerState.OPEN:
            return
        self._num_failures = 0
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.CLOSED
            self._backoff.reset()

    def failed(self, now_s: float) -> None:
        """A decision was not answered, late or wrongly."""
        if self.state is BreakerState.OPEN:
            return
        self._num_failures += 1
        if self.state is BreakerState.HALF_OPEN or self._num_failures >= self._max_failures:
            self._open(now_s)

    def lost(self, now_s: float) -> None:
        """There is no connection: nothing can be asked."""
        if self.state is not BreakerState.OPEN:
            self._open(now_s)

    def probed(self, answered: bool, now_s: float) -> None:
        """What came of a probe while it was open; without a connection nothing did."""
        if self.state is not BreakerState.OPEN:
            return
        if answered:
            self.probe_at_s = math.inf
            self.state = BreakerState.HALF_OPEN
        else:
            self._open(now_s)

    def unreachable(self, now_s: float) -> None:
        """A connection was tried for, in vain."""
        if self.state is BreakerState.OPEN:
            self.probed(False, now_s)
        else:
            self.lost(now_s)

    def _open(self, now_s: float) -> None:
        self._num_failures = 0
        # First, for whoever reads it in another thread once it is open.
        self.probe_at_s = now_s + self._backoff.next_s()
        self.state = BreakerState.OPEN
