"""Answers the requests that wait in Redis, for as long as it is told to.

Requests come by one connection; answers and entries of the log go by another, where what the server
says of them is read later: it wakes nobody who waits for a request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from rlkv_service.columns import verdicts_of
from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.resp_parser import Reply, encode_command
from rlkv_service.schema import SCHEMA_VERSION, Refusal, encode
from rlkv_service.server_clock import ServerClock
from rlkv_service.sidecar.answer_commands import AnswerCommands
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

#: Commands whose replies are read together, while requests come.
READ_TOGETHER = 128
_LOG, _OTHER = "log", "other"
#: For what the server has to say of what it was sent, seconds.
_REPLY_S = 5.0


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
        # TIME right behind the pop: deadlines are compared with when it really was.
        self._take = encode_command(
            "BLMPOP", BLOCK_S, 1, self._keys.requests, "LEFT", "COUNT", TAKE
        ) + encode_command("TIME")
        self._commands = AnswerCommands()
        #: What was written and has no reply yet: the list of an answer, or what else it was.
        self._unread: deque[str] = deque()
        self._lost = ""  # why there is no connection
        self._retry_s = RETRY_S
        self._complaint = ""  # why it refused what was written, last

    def run(self, url: RedisURL, stop: threading.Event) -> None:
        """Answers until told to stop, and then what it has taken."""
        while not stop.is_set():
            try:
                with RespConnection(url) as taking, RespConnection(url) as writing:
                    self._unread.clear()
                    self._clock.set(taking)
                    self._answer_all(taking, writing, stop)
            except RedisError as error:
                if str(error) != self._lost:
                    self._lost = str(error)
                    _logger.warning("%s: trying again", error)
                stop.wait(self._retry_s)
                self._retry_s = min(2.0 * self._retry_s, MAX_RETRY_S)

    def rehearse(self, frame: bytes) -> None:
        """Answers a frame to nobody: what is compiled or loaded at first is, then."""
        self._answer([frame])
        self._unread.clear()

    def _answer_all(
        self, taking: RespConnection, writing: RespConnection, stop: threading.Event
    ) -> None:
        while not stop.is_set():
            taking.send(self._take)
            if len(self._unread) >= READ_TOGETHER:
                self._read(writing)
            deadline_s = time.monotonic() + BLOCK_S + _REPLY_S
            popped, now = taking.receive(deadline_s), taking.receive(deadline_s)
            # Lateness is told by when it was popped: TIME was answered right then.
            after_s = time.monotonic()
            self._clock.learn(now, after_s, after_s)
            self._found()
            if frames := _frames(popped):
                writing.send(self._answer(frames))
            else:
                self._read(writing)
                writing.wait(0.0)  # whether it is still there, before it is needed
        self._read(writing)

    def _read(self, writing: RespConnection) -> None:
        """Looks at what became of answers and of the log."""
        deadline_s = time.monotonic() + _REPLY_S
        # To the end, with what is sent here: whoever looks for a lost connection finds no reply.
        while self._unread:
            what, reply = self._unread.popleft(), writing.receive(deadline_s)
            if isinstance(reply, RedisReplyError):
                self._complain(str(reply))
                if what == _LOG:
                    self._counters.log_failed()
                    self._budget.failed(str(reply))
            elif what in (_LOG, _OTHER):
                continue
            elif not isinstance(reply, int):
                raise RedisError(f"no reply to RPUSH: {str(reply)[:80]}")
            elif reply > MAX_ANSWERS:
                writing.send(encode_command("LTRIM", what, -MAX_ANSWERS, -1))
                self._unread.append(_OTHER)

    def _found(self) -> None:
        self._retry_s = RETRY_S
        if self._lost:
            self._lost = ""
            _logger.info("the server answers again")

    def _answer(self, frames: Sequence[bytes]) -> bytes:
        """The commands that answer frames and log them."""
        begin_s = time.perf_counter()
        batch = read_batch(frames, self._keys, self._clock.now_s())
        answered = self._decide(batch) if batch.taken else []
        commands: list[bytes] = []
        for reply_to, payload in [(t.reply_to, raw) for t, raw in answered] + batch.refused:
            commands.append(self._commands(reply_to, payload))
            self._unread += (reply_to, _OTHER)
        if self._budget.is_logging:
            now_s = self._clock.now_s()
            for each, raw in answered:
                commands.append(encode_command(*self._budget.command(each.raw, raw, now_s)))
                self._unread.append(_LOG)
        for result, num in (
            ("late", batch.num_late),
            ("malformed", batch.num_malformed),
            ("refused", len(batch.refused)),
        ):
            if num:
                self._counters.dropped(result, num)
        if answered:
            self._counters.answered(time.perf_counter() - begin_s, len(answered))
        return b"".join(commands)

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
