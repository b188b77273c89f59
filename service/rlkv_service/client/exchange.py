"""The conversation with a sidecar through Redis: what to send, and what its replies mean.

No clock, no socket and no thread here: the three clients send the bytes and hand the replies back.
A request goes to the tail of the list of requests, its answer comes through a list that is this
exchange's own; an exchange lives as long as its connections do, so an answer to an older one finds
nobody.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from rlkv_service.client.client_state import ClientState
from rlkv_service.client.line import Line
from rlkv_service.client.probe import probe_rows
from rlkv_service.client.request_book import Asked, RequestBook, Settled
from rlkv_service.columns import DecisionRows
from rlkv_service.outcome_log import record_command, recorded
from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_keys import MAX_REQUESTS
from rlkv_service.resp_parser import Reply, encode_command
from rlkv_service.schema import Reason
from rlkv_service.server_clock import ServerClock

#: The server is asked for its time so often; clocks drift.
CLOCK_S = 10.0
#: Answers taken at once.
_MAX_ANSWERS = 64
#: The shortest wait that the server knows; 0 would be without an end.
_SHORTEST_WAIT_S = 0.001
_PROBE = object()


class Exchange:
    """Requests, answers and outcomes of one client while it is connected.

    Args:
        state: of the client: told how each request ends, and what goes wrong.
        clock: the server's.
        now_s: monotonic time; the clock was set then.
    """

    def __init__(self, state: ClientState, clock: ServerClock, now_s: float) -> None:
        keys = state.address.keys
        # Of this exchange and no other.
        self._keys, self._answers_key = keys, keys.answers(secrets.token_hex(8))
        self._book = RequestBook(state.address.engine_id, state.address.profile_id)
        self._breaker, self._tally, self._outbox = state.breaker, state.tally, state.outbox
        self._clock = clock
        self._cut = encode_command("LTRIM", keys.requests, -MAX_REQUESTS, -1)
        self._clock_due_s = now_s + CLOCK_S
        self._now_s = now_s
        self._settled: list[Settled] = []
        self._probe_is_out = False
        self._answered_id = 0  # the newest request that was answered
        self._is_recording = False
        self._record_backoff, self._record_at_s = state.backoff, now_s

    def at(self, now_s: float) -> None:
        """Tells the time; everything until the next call happens then."""
        self._now_s = now_s

    def ask(self, line: Line, asks: Sequence[tuple[DecisionRows, Any, float]]) -> bytes:
        """What sends requests, each of rows, the asker's tag and the monotonic deadline.

        Rows that cannot be sent have ended at once, as refused.
        """
        raw = b""
        if self._now_s >= self._clock_due_s and line.is_idle:
            # Not behind a command that waits: its time would be that of the wait's middle.
            raw = self._ask_time(line)
        ids, payloads = [], []
        for rows, tag, deadline_s in asks:
            try:
                request_id, payload = self._book.open(
                    rows,
                    tag,
                    deadline_s,
                    reply_to=self._answers_key,
                    server_deadline_s=self._clock.at(deadline_s),
                )
            except (TypeError, ValueError) as error:
                # Names that are no text, facts that are no numbers: nobody could read it.
                self._tally.error(error)
                unasked = Asked(0, rows, tag, deadline_s)
                self._settled.append(Settled(unasked, None, Reason.REFUSED))
                continue
            ids.append(request_id)
            payloads.append(payload)
        if not payloads:
            return raw

        def pushed(reply: Reply) -> None:
            if isinstance(reply, RedisReplyError):
                self._tally.error(reply)
                self._end(self._book.give_up(Reason.DISCONNECTED, ids))
            elif not isinstance(reply, int):
                raise RedisError(f"no length of a list: {str(reply)[:80]}")

        raw += line.command(pushed, "RPUSH", self._keys.requests, *payloads)
        return raw + line.encoded(_ignore, self._cut)

    def probe(self, line: Line, deadline_s: float) -> bytes:
        """What asks about one harmless row, of which the breaker alone hears."""
        self._probe_is_out = True
        # By a clock that has jumped every request is late: the next probe knows better.
        self._clock_due_s = self._now_s
        return self.ask(line, [(probe_rows(), _PROBE, deadline_s)])

    def wait_for_answers(self, line: Line, wait_s: float) -> bytes:
        """What takes answers, once there is one or so many seconds are over."""
        wait = f"{max(wait_s, _SHORTEST_WAIT_S):.3f}"
        return line.command(
            self._answered, "BLMPOP", wait, 1, self._answers_key, "LEFT", "COUNT", _MAX_ANSWERS
        )

    def record(self, line: Line) -> bytes:
        """What writes the oldest outcomes; nothing while some are being written, or before time."""
        if self._is_recording or self._now_s < self._record_at_s:
            return b""
        if not (messages := self._outbox.begin()):
            return b""
        self._is_recording = True

        def written(reply: Reply) -> None:
            self._is_recording = False
            try:
                recorded(reply, len(messages))
            except RedisReplyError as error:
                self._tally.error(error)
                self._record_at_s = self._now_s + self._record_backoff.next_s()
            else:
                self._outbox.written()
                self._record_backoff.reset()

        return line.command(written, *record_command(self._keys, messages))

    def take_settled(self) -> list[Settled]:
        """Requests that have ended since the last call."""
        self._end(self._book.expire(self._now_s))
        settled, self._settled = self._settled, []
        return settled

    def lost(self, error: BaseException) -> None:
        """The connection is gone."""
        self._tally.error(error)
        self._end(self._book.give_up(Reason.DISCONNECTED))
        self._breaker.lost(self._now_s)

    @property
    def wants_probe(self) -> bool:
        """Whether it is time for a probe, and none is under way."""
        if self._probe_is_out or not self._breaker.is_open:
            return False
        return self._now_s >= self._breaker.probe_at_s

    @property
    def probe_is_out(self) -> bool:
        """Whether a probe has not ended yet."""
        return self._probe_is_out

    @property
    def is_waiting(self) -> bool:
        """Whether something is to come: an answer, or word of outcomes."""
        return self._is_recording or len(self._book) > 0

    @property
    def has_expired(self) -> bool:
        """Whether the deadline of a request has passed, and nothing has come of it."""
        return self._now_s >= self._book.next_deadline_s()

    @property
    def num_under_way(self) -> int:
        """Requests that have not ended."""
        return len(self._book)

    def next_s(self) -> float:
        """When there is something to do without anything having come; infinite: never."""
        next_s = self._book.next_deadline_s()
        if self._breaker.is_open and not self._probe_is_out:
            next_s = min(next_s, self._breaker.probe_at_s)
        if len(self._outbox) and not self._is_recording:
            next_s = min(next_s, self._record_at_s)
        return next_s

    def _ask_time(self, line: Line) -> bytes:
        before_s = self._now_s
        self._clock_due_s = before_s + CLOCK_S

        def told(reply: Reply) -> None:
            self._clock.learn(reply, before_s, self._now_s)

        return line.command(told, "TIME")

    def _answered(self, reply: Reply) -> None:
        if reply is None:
            return
        if isinstance(reply, RedisReplyError):
            raise reply
        match reply:
            case [_, [*answers]] if all(isinstance(answer, bytes) for answer in answers):
                pass
            case _:
                raise RedisError(f"no list of answers: {str(reply)[:80]}")
        for answer in answers:
            settled = self._book.settle(answer, self._now_s)
            if settled is None:
                self._tally.discard()
            else:
                self._end([settled])

    def _end(self, ended: Sequence[Settled]) -> None:
        for settled in ended:
            # A refusal is the sidecar's, which is there, then.
            answered = settled.verdicts is not None or settled.reason is Reason.REFUSED
            if settled.asked.tag is _PROBE:
                self._probe_is_out = False
                self._breaker.probed(answered, self._now_s)
                continue
            if answered:
                self._breaker.succeeded()
                self._answered_id = max(self._answered_id, settled.asked.request_id)
            elif settled.asked.request_id > self._answered_id:
                # Of an older one it is known that others answer: a sidecar died that had taken it.
                self._breaker.failed(self._now_s)
            self._settled.append(settled)


def _ignore(_: Reply) -> None:
    """The list of requests is cut as a courtesy; who may not cut it may ask all the same."""
