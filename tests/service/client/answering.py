"""A sidecar in little, on a thread: it takes requests from a real server and answers by script."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

import numpy as np

from rlkv_service.columns import VerdictRows, rows_of, verdicts_of
from rlkv_service.local_rule import LocalRule
from rlkv_service.redis_errors import RedisError
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.schema import DecisionRequest, Reason, Refusal, decode, encode
from rlkv_service.server_clock import ServerClock

VERSION = "scripted"
#: What becomes of a request: the bytes pushed, or none for silence.
Script = Callable[[DecisionRequest], bytes | None]


def number_of(session: str) -> int:
    """Sessions of these tests are called ``s`` and a number."""
    return int(session[1:]) if session[1:].isdecimal() else 0


def verdicts_for(request: DecisionRequest) -> VerdictRows:
    """The rule's, and as the lease the number of the row's session: a wrong match is seen."""
    rows = rows_of(request)
    verdicts = LocalRule().verdicts(rows, Reason.POLICY)
    lease_s = np.array([number_of(session) for session in rows.sessions], np.float32)
    return VerdictRows(
        VERSION,
        verdicts.verb,
        lease_s,
        verdicts.soft_priority,
        verdicts.expected_return_p50_s,
        verdicts.expected_return_p90_s,
        verdicts.confidence,
        np.zeros(len(rows), np.int8),
        verdicts.reason,
        verdicts.rule_verb,
    )


def answer(request: DecisionRequest) -> bytes | None:
    return encode(verdicts_of(verdicts_for(request), request.id))


def never(request: DecisionRequest) -> bytes | None:
    return None


def garbage(request: DecisionRequest) -> bytes | None:
    return b"\xc1 this is no message \xff"


def unreadable(request: DecisionRequest) -> bytes | None:
    message = verdicts_of(verdicts_for(request), request.id)
    message.verb = b"\x07" * len(request.sessions)
    return encode(message)


def other_id(request: DecisionRequest) -> bytes | None:
    return encode(verdicts_of(verdicts_for(request), request.id + 1000))


def too_few_rows(request: DecisionRequest) -> bytes | None:
    message = verdicts_of(verdicts_for(request), request.id)
    message.verb = message.verb[:-1]
    return encode(message)


def other_version(request: DecisionRequest) -> bytes | None:
    message = verdicts_of(verdicts_for(request), request.id)
    message.v = 2
    return encode(message)


def refusal(request: DecisionRequest) -> bytes | None:
    return encode(Refusal(1, request.id, "not today"))


def client_reason(request: DecisionRequest) -> bytes | None:
    message = verdicts_of(verdicts_for(request), request.id)
    message.reason = bytes([Reason.LATE]) * len(request.sessions)
    return encode(message)


class Responder:
    """Answers until it is stopped, on a new connection where one is lost."""

    def __init__(self, url: RedisURL, script: Script = answer, namespace: str = "default") -> None:
        self._url, self._keys = url, RedisKeys(namespace)
        self.script = script
        #: Each answer waits for this, a step each, where it is set.
        self.may_answer: threading.Semaphore | None = None
        self.num_taken = 0
        self.num_late = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._is_stopping = True
        self._thread.join(10.0)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping:
            try:
                with RespConnection(self._url, 1.0) as connection:
                    clock = ServerClock()
                    clock.set(connection)
                    while not self._is_stopping:
                        self._take(connection, clock)
            except RedisError:
                time.sleep(0.01)

    def _take(self, connection: RespConnection, clock: ServerClock) -> None:
        taken = connection.execute("BLMPOP", 0.05, 1, self._keys.requests, "LEFT", "COUNT", 64)
        commands: list[tuple[bytes | str | int, ...]] = []
        for payload in taken[1] if taken else []:
            request = decode(payload, DecisionRequest)
            self.num_taken += 1
            if request.deadline_s is not None and clock.now_s() > request.deadline_s:
                self.num_late += 1
                continue
            while self.may_answer is not None and not self.may_answer.acquire(timeout=0.05):
                if self._is_stopping:
                    return
            if (reply := self.script(request)) is not None:
                commands += [("RPUSH", request.reply_to, reply), ("EXPIRE", request.reply_to, 30)]
        if commands:
            connection.pipeline(commands)
