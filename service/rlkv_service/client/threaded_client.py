"""What the clients share that have a thread behind them: its life, and that of a fork."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Generic, Protocol, Self, TypeVar

from rlkv_service.client.address import Address
from rlkv_service.client.breaker import BreakerSettings
from rlkv_service.client.client_state import ClientState
from rlkv_service.client.counts import Counts


class Worker(Protocol):
    """Has the thread and the connections."""

    def close(self) -> None:
        """Ends the thread, after a last try to write outcomes that wait."""

    def abandon(self) -> None:
        """In a child of ``fork``: closes its copies of the sockets, and waits for nothing."""


W = TypeVar("W", bound=Worker)


class ThreadedClient(ABC, Generic[W]):
    """Begins a worker, and in a child of ``fork`` another one at the first call.

    Args:
        address: of the server.
        settings: when to stop asking.
        max_outcomes_waiting: the oldest are dropped where more would wait.
    """

    def __init__(
        self, address: Address, settings: BreakerSettings | None, max_outcomes_waiting: int
    ) -> None:
        self._address, self._settings = address, settings
        self._max_outcomes_waiting = max_outcomes_waiting
        self._is_closed = False
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def counts(self) -> Counts:
        """What the client has done, as of now."""
        return self._state.counts

    def close(self) -> None:
        """Writes what it can of the outcomes that wait, within a few seconds, and ends.

        Nobody is asked after that.
        """
        if not self._is_closed:
            self._is_closed = True
            if os.getpid() == self._pid:
                self._worker.close()

    @abstractmethod
    def _new_worker(self, state: ClientState) -> W:
        """Begins a thread."""

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._state = ClientState.begin(self._address, self._settings, self._max_outcomes_waiting)
        self._breaker = self._state.breaker
        self._worker = self._new_worker(self._state)

    def _survive_fork(self) -> None:
        """A child has its parent's sockets, none of its threads, and locks that nobody opens."""
        if os.getpid() != self._pid:
            self._worker.abandon()
            self._begin()
