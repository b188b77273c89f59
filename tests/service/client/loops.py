"""Engines that go on asking whatever happens, one for each form of the client."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from typing import Any

from rlkv_service.client import (
    AsyncioClient,
    BreakerSettings,
    Client,
    Counts,
    DecisionRows,
    EngineClient,
)
from rlkv_service.redis_url import RedisURL
from tests.service.client.asking import check_rows_match, outcome, rows_about

#: Far longer than an answer takes, and not as long as a fault lasts.
DEADLINE_MS = 60.0
QUICK = BreakerSettings(first_probe_s=0.01, max_probe_s=0.1, seed=0)


class Loop(ABC):
    """A thread that asks until it is stopped; what is raised in it is raised by ``stop``."""

    def __init__(self, url: RedisURL) -> None:
        self._url = url
        self._error: BaseException | None = None
        self._is_stopping = False
        self.num_steps = 0
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._guarded, daemon=True)
        self._thread.start()
        assert self._began.wait(10.0)

    @property
    @abstractmethod
    def counts(self) -> Counts: ...

    @abstractmethod
    def _run(self) -> None:
        """Until ``_is_stopping``; sets ``_began``."""

    def check(self) -> None:
        if self._error is not None:
            raise AssertionError(f"an exception in {type(self).__name__}") from self._error
        assert self._is_stopping or self._thread.is_alive()

    def stop(self) -> None:
        self._is_stopping = True
        self._thread.join(20.0)
        assert not self._thread.is_alive()
        self.check()

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._error = error

    def _rows(self) -> DecisionRows:
        self.num_steps += 1
        return rows_about(7 * self.num_steps, 1 + self.num_steps % 5)


class SyncLoop(Loop):
    def _run(self) -> None:
        with Client(
            self._url, engine_id="sync", deadline_ms=DEADLINE_MS, breaker=QUICK
        ) as self._client:
            self._began.set()
            while not self._is_stopping:
                rows = self._rows()
                check_rows_match(rows, self._client.decide(rows))
                self._client.report([outcome("s", self.num_steps, "sync")], deadline_ms=0.0)
                time.sleep(0.002)

    @property
    def counts(self) -> Counts:
        return self._client.counts


class EngineLoop(Loop):
    def _run(self) -> None:
        asked: dict[Any, DecisionRows] = {}
        with EngineClient(
            self._url, engine_id="engine", deadline_ms=DEADLINE_MS, breaker=QUICK
        ) as self._client:
            self._began.set()
            while not self._is_stopping:
                rows = self._rows()
                if self._client.ask(rows, self.num_steps):
                    asked[self.num_steps] = rows
                for tag, verdicts in self._client.collect():
                    check_rows_match(asked.pop(tag), verdicts)
                self._client.report([outcome("s", self.num_steps, "engine")])
                time.sleep(0.002)

    @property
    def counts(self) -> Counts:
        return self._client.counts


class AsyncioLoop(Loop):
    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        async with AsyncioClient(
            self._url, engine_id="asyncio", deadline_ms=DEADLINE_MS, breaker=QUICK
        ) as self._client:
            self._began.set()
            while not self._is_stopping:
                await asyncio.gather(self._step(), self._step())
                await self._client.report(
                    [outcome("s", self.num_steps, "asyncio")], deadline_ms=0.0
                )
                await asyncio.sleep(0.002)

    async def _step(self) -> None:
        rows = self._rows()
        check_rows_match(rows, await self._client.decide(rows))

    @property
    def counts(self) -> Counts:
        return self._client.counts
