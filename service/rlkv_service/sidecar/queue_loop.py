"""Answers the requests that wait in Redis, for as long as it is told to.

One command of the server is waited for at a time: answers, entries of the log and the next request
to wait travel in one write, so that a round trip costs no more than a blocking pop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from rlkv_service.columns import verdicts_of
from rlkv_service.redis_keys import ANSWERS_EXPIRE_S
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RedisError, RedisReplyError, Reply, RespConnection, Word
from rlkv_service.schema import SCHEMA_VERSION, Refusal, encode
from rlkv_service.server_clock import ServerClock
from rlkv_service.sidecar.request_batch import RequestBatch, Taken, read_batch
from rlkv_service.sidecar.service import DecisionService

_logger = logging.getLogger(__name__)

#: Requests that are taken and answered together.
TAKE = 64
#: A stop is noticed after so long, seconds.
BLOCK_S = 0.2
#: Answers that wait for a client that does not fetch them.
MAX_ANSWERS = 1024
#: Between attempts to reach the server, seconds; the second figure is reached by doubling.
RETRY_S, MAX_RETRY_S = 0.05, 2.0

_Command = tuple[Word, ...]


class QueueLoop:
    """Takes requests, decides, answers and logs. Runs in a thread of its own.

    It never raises because of the server or of what is in the queue.

    Args:
        service: decides and counts.
    """

    def __init__(self, service: DecisionService) -> None:
        self._service = service
        self._keys, self._counters, self._budget = service.keys, service.counters, service.budget
        self._clock = ServerClock()
        self._lost = ""  # why there is no connection
        self._retry_s = RETRY_S
        self._complaint = ""  # why it refused what was written, last

    def run(self, url: RedisURL, stop: threading.Event) -> None:
        """Answers until told to stop, and then what it has taken."""
        while not stop.is_set():
            try:
                with RespConnection(url) as connection:
                    self._clock.set(connection)
                    self._answer_all(connection, stop)
            except RedisError as error:
                if str(error) != self._lost:
                    self._lost = str(error)
                    _logger.warning("%s: trying again", error)
                stop.wait(self._retry_s)
                self._retry_s = min(2.0 * self._retry_s, MAX_RETRY_S)

    def _answer_all(self, connection: RespConnection, stop: threading.Event) -> None:
        # TIME right behind the pop: deadlines are compared with when it really was.
        take: list[_Command] = [
            ("BLMPOP", BLOCK_S, 1, self._keys.requests, "LEFT", "COUNT", TAKE),
            ("TIME",),
        ]
        answers: list[_Command] = []
        while not stop.is_set() or answers:
            going_on = not stop.is_set()
            commands = answers + take if going_on else answers
            deadline_s = time.monotonic() + BLOCK_S + 5.0
            replies = connection.pipeline(commands, deadline_s=deadline_s)
            answers = self._settle(answers, replies[: len(answers)])
            if not going_on:
                continue
            popped, now = replies[-2:]
            frames = _frames(popped)
            # Lateness is told by when it was popped: the answer to TIME was written right then.
            after_s = time.monotonic()
            self._clock.learn(now, after_s, after_s)
            self._found()
            if frames:
                answers += self._answer(frames)

    def _found(self) -> None:
        self._retry_s = RETRY_S
        if self._lost:
            self._lost = ""
            _logger.info("the server answers again")

    def _answer(self, frames: Sequence[bytes]) -> list[_Command]:
        """The commands that answer frames and log them."""
        begin_s = time.perf_counter()
        batch = read_batch(frames, self._keys, self._clock.now_s())
        answered = self._decide(batch) if batch.taken else []
        commands: list[_Command] = []
        for reply_to, payload in [(t.reply_to, raw) for t, raw in answered] + batch.refused:
            commands.append(("RPUSH", reply_to, payload))
            commands.append(("EXPIRE", reply_to, ANSWERS_EXPIRE_S))
        if self._budget.is_logging:
            now_s = self._clock.now_s()
            commands += (self._budget.command(t.raw, raw, now_s) for t, raw in answered)
        for result, num in (
            ("late", batch.num_late),
            ("malformed", batch.num_malformed),
            ("refused", len(batch.refused)),
        ):
            if num:
                self._counters.dropped(result, num)
        if answered:
            self._counters.answered(time.perf_counter() - begin_s, len(answered))
        return commands

    def _decide(self, batch: RequestBatch) -> list[tuple[Taken, bytes]]:
        """The answers to what was taken; a request that breaks us is refused alone."""
        try:
            return self._decided(batch.taken)
        except Exception:
            _logger.exception("one of %d requests cannot be decided", len(batch.taken))
        answered = []
        for each in batch.taken:
            try:
                answered += self._decided([each])
            except Exception:
                refusal = Refusal(SCHEMA_VERSION, each.id, "an error of the sidecar: see its log")
                batch.refused.append((each.reply_to, encode(refusal)))
        return answered

    def _decided(self, taken: Sequence[Taken]) -> list[tuple[Taken, bytes]]:
        decided = self._service.answer([each.asked for each in taken])
        return [
            (each, encode(verdicts_of(verdicts, each.id)))
            for each, verdicts in zip(taken, decided, strict=True)
        ]

    def _settle(self, commands: Sequence[_Command], replies: Sequence[Reply]) -> list[_Command]:
        """Looks at what became of answers and of the log; what is to be done about it."""
        more: list[_Command] = []
        for words, reply in zip(commands, replies, strict=True):
            if words[0] == "XADD" and isinstance(reply, RedisReplyError):
                self._counters.log_failed()
                self._budget.failed(str(reply))
                self._complain(str(reply))
            elif words[0] == "RPUSH" and isinstance(reply, RedisReplyError):
                self._complain(str(reply))
            elif words[0] == "RPUSH" and not isinstance(reply, int):
                raise RedisError(f"no reply to RPUSH: {str(reply)[:80]}")
            elif words[0] == "RPUSH" and reply > MAX_ANSWERS:
                more.append(("LTRIM", words[1], -MAX_ANSWERS, -1))
        return more

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            _logger.warning("the server refuses what is written: %s", reason)


def _frames(popped: Reply) -> Sequence[bytes]:
    """What a BLMPOP took; raises ``RedisError`` if it is not its reply."""
    if isinstance(popped, RedisReplyError):
        raise popped
    if popped is None:
        return ()
    match popped:
        case [bytes(), [*frames]] if all(isinstance(frame, bytes) for frame in frames):
            return frames
    raise RedisError(f"no reply to BLMPOP: {str(popped)[:80]}")
