"""Whom a client asks, and what it keeps while connections come and go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from rlkv_service.client.address import Address
from rlkv_service.client.backoff import Backoff
from rlkv_service.client.breaker import Breaker, BreakerSettings
from rlkv_service.client.counts import Counts, Tally
from rlkv_service.client.outbox import Outbox

#: Outcomes that wait for a server at most.
DEFAULT_MAX_OUTCOMES_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class ClientState:
    """Of one client in one process."""

    address: Address
    breaker: Breaker
    tally: Tally
    outbox: Outbox
    backoff: Backoff  #: how long to wait before outcomes are sent again that could not be written

    @classmethod
    def begin(
        cls, address: Address, settings: BreakerSettings | None, max_outcomes_waiting: int
    ) -> Self:
        """A client that has asked nobody yet; arguments as for ``Client``."""
        settings = settings or BreakerSettings()
        outbox = Outbox(max_outcomes_waiting)
        return cls(address, Breaker(settings), Tally(), outbox, settings.backoff())

    @property
    def counts(self) -> Counts:
        """What the client has done, as of now."""
        outbox = self.outbox
        return self.tally.snapshot(outbox.num_written, len(outbox), outbox.num_dropped)
