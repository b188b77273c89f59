"""What a sidecar does beside answering: says that it lives, counts who waits, watches a bundle."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress

from rlkv_service.deciding.bundle_watch import BundleWatch
from rlkv_service.deciding.decider import Decider
from rlkv_service.redis_errors import RedisError, reply_to
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.resp_parser import Word
from rlkv_service.server_clock import ServerClock
from rlkv_service.sidecar.service import DecisionService

#: Between two rounds, seconds.
EVERY_S = 1.0
#: A sidecar that was silent for so long is taken off the list, seconds.
FORGET_S = 60.0


class Housekeeping:
    """Goes its rounds; in a thread of its own."""

    def __init__(self, service: DecisionService, decider: Decider, watch: BundleWatch) -> None:
        self._service, self._decider, self._watch = service, decider, watch
        self._keys = service.keys
        host = socket.gethostname()
        self.sidecar_id = f"{host}:{os.getpid()}:{secrets.token_hex(2)}"
        self._said = {"host": host, "pid": os.getpid(), "started_s": time.time()}

    def run(self, url: RedisURL, stop: threading.Event) -> None:
        """Goes its rounds until told to stop, and says goodbye."""
        connection: RespConnection | None = None
        while not stop.wait(EVERY_S):
            self._watch.look(self._decider)
            try:
                if connection is None or connection.is_closed:
                    connection = RespConnection(url)
                self._round(connection)
            except RedisError:  # the loop says so
                if connection is not None:
                    connection.close()  # nobody knows what its next reply is to
        with suppress(RedisError):
            if connection is None or connection.is_closed:
                connection = RespConnection(url)
            with connection:
                connection.execute("HDEL", self._keys.sidecars, self.sidecar_id)

    def _round(self, connection: RespConnection) -> None:
        clock = ServerClock()
        clock.set(connection)
        now_s = clock.now_s()
        counts = self._service.counters.counts()
        said = {
            **self._said,
            "at_s": now_s,
            "policy_version": self._service.policy.version,
            "shadow": self._service.policy.shadow,
            "requests": counts.requests["answered"],
            "decisions": sum(counts.decisions.values()),
        }
        _, others, waiting, entries, num_bytes = connection.pipeline(
            [
                ("HSET", self._keys.sidecars, self.sidecar_id, json.dumps(said)),
                ("HGETALL", self._keys.sidecars),
                ("LLEN", self._keys.requests),
                ("XLEN", self._keys.decisions),
                ("MEMORY", "USAGE", self._keys.decisions),
            ]
        )
        more: list[tuple[Word, ...]] = []
        if isinstance(waiting, int):
            self._service.counters.queue(waiting)
        if isinstance(entries, int):
            if isinstance(num_bytes, int):  # not everybody may ask for it
                self._service.budget.measured(num_bytes, entries)
            cut = self._service.budget.shrink(entries)
            more += [cut] if cut is not None else []
        if isinstance(others, list):
            with reply_to("HGETALL"):
                silent = _silent(others, now_s)
            more += [("HDEL", self._keys.sidecars, *silent)] if silent else []
        if more:
            connection.pipeline(more)


def _silent(others: list[bytes], now_s: float) -> list[bytes]:
    """Those of a hash of sidecars that have not been heard of for long."""
    found = []
    for name, raw in zip(others[::2], others[1::2], strict=True):
        try:
            at_s = float(json.loads(raw)["at_s"])
        except (ValueError, KeyError, TypeError):
            at_s = 0.0
        if not now_s - at_s < FORGET_S:
            found.append(name)
    return found
