"""Asks a sidecar as bluntly as Redis allows: frames in, frames out."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from rlkv_service.columns import DecisionRows, request_of
from rlkv_service.deciding.check_rows import made_up_rows
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.schema import Refusal, SchemaError, Verdicts, decode, encode

PATIENCE_S = 20.0

#: Makes clients that are closed after the test.
Connect = Callable[[RedisURL], "QueueClient"]


def rows_of_session(session: str, num: int = 3) -> DecisionRows:
    rows = made_up_rows(num)
    return DecisionRows([session] * num, np.arange(num), ["tool"] * num, rows.facts)


class QueueClient:
    def __init__(self, url: RedisURL, name: str = "client", namespace: str = "default") -> None:
        self.keys = RedisKeys(namespace)
        self.answers = self.keys.answers(name)
        self.connection = RespConnection(url, timeout_s=PATIENCE_S)

    def frame(
        self, request_id: int, rows: DecisionRows | None = None, deadline_s: float | None = None
    ) -> bytes:
        rows = rows or rows_of_session(str(request_id))
        return encode(
            request_of(rows, "engine", request_id, reply_to=self.answers, deadline_s=deadline_s)
        )

    def push(self, *frames: bytes) -> None:
        self.connection.execute("RPUSH", self.keys.requests, *frames)

    def next(self) -> Verdicts | Refusal:
        found = self.connection.execute("BLPOP", self.answers, PATIENCE_S - 5.0)
        assert found is not None, "no answer"
        try:
            return decode(found[1], Verdicts)
        except SchemaError:
            return decode(found[1], Refusal)

    def ask(self, request_id: int) -> Verdicts | Refusal:
        self.push(self.frame(request_id))
        return self.next()

    def now_s(self) -> float:
        seconds, micros = self.connection.execute("TIME")
        return int(seconds) + int(micros) * 1e-6


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)
