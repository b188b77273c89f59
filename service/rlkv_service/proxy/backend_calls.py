"""Calls that a hint asks for once a response is through: to the backend, or to LMCache."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from rlkv_service.adapters.hints import Call, OnReturn
from rlkv_service.proxy.upstream import Upstream
from rlkv_service.proxy.upstream_connection import UpstreamError

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Planned:
    call: Call
    timer: asyncio.TimerHandle


class BackendCalls:
    """Makes calls when their time has come.

    Args:
        servers: by the names of ``Call.server``.
        authorization: shown to the engine; None: none is.
    """

    def __init__(self, servers: Mapping[str, Upstream], authorization: bytes | None) -> None:
        self._servers, self._authorization = servers, authorization
        self._planned: dict[str, list[_Planned]] = {}  # by session
        self._tasks: set[asyncio.Task[None]] = set()
        #: By what became of them: done, failed, skipped, no_server.
        self.counts: Counter[str] = Counter()

    def plan(self, session: str, calls: Sequence[Call]) -> None:
        """The session pauses now."""
        loop = asyncio.get_running_loop()
        for call in calls:
            if call.server not in self._servers:
                self.counts["no_server"] += 1
                continue
            if call.after_s <= 0.0:
                self._make(call)
                continue
            planned = self._planned.setdefault(session, [])

            def due(call: Call = call) -> None:
                self._drop(session, call)
                self._make(call)

            planned.append(_Planned(call, loop.call_later(call.after_s, due)))

    def returned(self, session: str) -> None:
        """The session is back: what still waits is made, kept or dropped, as it says."""
        for planned in self._planned.get(session, ())[:]:
            if planned.call.on_return is OnReturn.KEEP:
                continue
            planned.timer.cancel()
            self._drop(session, planned.call)
            if planned.call.on_return is OnReturn.NOW:
                self._make(planned.call)
            else:
                self.counts["skipped"] += 1

    def close(self) -> None:
        """Nothing is called any more."""
        for planned in self._planned.values():
            for each in planned:
                each.timer.cancel()
        self._planned.clear()
        for task in self._tasks:
            task.cancel()

    def _drop(self, session: str, call: Call) -> None:
        left = [each for each in self._planned.get(session, ()) if each.call is not call]
        if left:
            self._planned[session] = left
        else:
            self._planned.pop(session, None)

    def _make(self, call: Call) -> None:
        task = asyncio.create_task(self._call(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, call: Call) -> None:
        body = b"" if call.body is None else msgspec.json.encode(call.body)
        headers = [(b"content-type", b"application/json")] if body else []
        if self._authorization is not None and call.server == "engine":
            headers.append((b"authorization", self._authorization))
        headers += [(name.lower().encode(), value.encode()) for name, value in call.headers.items()]
        try:
            status, _ = await self._servers[call.server].ask(call.method, call.path, headers, body)
        except UpstreamError as error:
            self.counts["failed"] += 1
            _log.info("%s %s: %s", call.method, call.path, error)
            return
        self.counts["done" if status < 400 else "failed"] += 1
