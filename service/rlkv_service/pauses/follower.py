"""Follows the stream of outcomes: feeds the predictor, and keeps its state beside the stream.

State and the id of the last outcome in it are one value, written in one step: whoever reads it and
goes on from that id has seen every outcome once. Several followers of a stream reach the same
state, and each may write it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rlkv_service.decision_log.entries import (
    BEGINNING,
    StreamEntry,
    decode_outcome,
    id_parts,
    last_id,
    outcome_entries,
)
from rlkv_service.pauses.online_pauses import OnlinePauses
from rlkv_service.pauses.state import decode_state, encode_state
from rlkv_service.redis_errors import RedisError, RedisReplyError
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.redis_url import RedisURL
from rlkv_service.resp import RespConnection
from rlkv_service.schema import Outcome, SchemaError, SessionEnd

#: Between two writes of the state, seconds: so much is read again after a crash.
SAVE_EVERY_S = 10.0
#: Outcomes that are read at a time.
NUM_AT_A_TIME = 512
_BLOCK_S = 1.0
_RETRY_S = 0.5


class OutcomeFollower:
    """Reads outcomes and ends as they come.

    Args:
        pauses: the predictor that learns from them; others may ask it meanwhile.
        keys: of the deployment.
        save_every_s: between two writes of the state, seconds.
        on_message: is told each outcome and end too.
    """

    def __init__(
        self,
        pauses: OnlinePauses,
        keys: RedisKeys,
        *,
        save_every_s: float = SAVE_EVERY_S,
        on_message: Callable[[Outcome | SessionEnd], None] | None = None,
    ) -> None:
        self.pauses = pauses
        #: Counters since the start.
        self.num_outcomes = self.num_ends = self.num_unreadable = self.num_failed_saves = 0
        #: Why a state that was found could not be used; empty: there was none such.
        self.refused_state = ""
        #: Why ``run`` does not follow at the moment; empty: it does.
        self.trouble = ""
        self._keys, self._save_every_s, self._on_message = keys, save_every_s, on_message
        self._last_id = ""  # of what is in the predictor; empty: not looked for yet
        self._saved_id = ""
        self._next_save_s = time.monotonic() + save_every_s

    @property
    def last_id(self) -> str:
        """Id of the last outcome that the predictor knows."""
        return self._last_id or BEGINNING

    def place(self, connection: RespConnection) -> None:
        """Finds the place to go on from, on a new connection and where a stream ends too soon.

        At first that is where the state that is kept ends. A stream that ends before what we know
        has lost its end (with a crash of the server) or begun anew. In the first case a state is
        kept beside it, and taken; in the second we keep what we know and read all of the stream.

        Raises:
            RedisError: the server is gone, or refuses.
        """
        end = id_parts(last_id(connection, self._keys.outcomes))
        if self._last_id and id_parts(self._last_id) <= end:
            return
        kept = self._kept_state(connection)
        if kept is not None and (not self._last_id or id_parts(kept[1]) <= end):
            self.pauses.replace(kept[0])
            self._last_id = self._saved_id = kept[1]
            if id_parts(kept[1]) <= end:
                return
        self._last_id = BEGINNING

    def step(self, connection: RespConnection, block_s: float = 0.0) -> int:
        """Reads the next outcomes, and writes the state where it is time to.

        Args:
            connection: to the server; ``place`` comes first on a new one.
            block_s: how long to wait for an outcome, seconds; 0: not at all.

        Returns:
            Entries that were read.

        Raises:
            RedisError: the server is gone, or refuses.
        """
        deadline_s = time.monotonic() + block_s + 5.0
        entries = outcome_entries(
            connection, self._keys, self.last_id, count=NUM_AT_A_TIME, block_s=block_s,
            deadline_s=deadline_s,
        )  # fmt: skip
        for entry in entries:
            self._learn(entry)
            self._last_id = entry.entry_id
        if not entries:
            self.place(connection)
        if time.monotonic() >= self._next_save_s:
            self.save(connection)
        return len(entries)

    def save(self, connection: RespConnection) -> None:
        """Writes the state, unless it is there already; a server without room is counted.

        Raises:
            RedisError: the server is gone.
        """
        self._next_save_s = time.monotonic() + self._save_every_s
        if self.last_id == self._saved_id or not self._last_id:
            return
        try:
            connection.execute("SET", self._keys.pauses, encode_state(self.pauses, self.last_id))
        except RedisReplyError:
            self.num_failed_saves += 1
            return
        self._saved_id = self.last_id

    def run(self, url: RedisURL, stop: threading.Event) -> None:
        """Follows until told to stop, whatever becomes of the server; for a thread of its own."""
        while not stop.is_set():
            try:
                with RespConnection(url) as connection:
                    self.place(connection)
                    self.trouble = ""
                    while not stop.is_set():
                        self.step(connection, _BLOCK_S)
                    self.save(connection)
            except RedisError as error:
                self.trouble = str(error)
                stop.wait(_RETRY_S)

    def _learn(self, entry: StreamEntry) -> None:
        try:
            message = decode_outcome(entry.fields.get(b"m", b""))
            if isinstance(message, Outcome):
                self.pauses.add(
                    message.engine_id, message.session, message.tool, message.pause_s,
                    min(id_parts(entry.entry_id)[0], 2**62),
                )  # fmt: skip
                self.num_outcomes += 1
            else:
                self.pauses.end(message.engine_id, message.session)
                self.num_ends += 1
        except SchemaError:
            self.num_unreadable += 1
            return
        if self._on_message is not None:
            self._on_message(message)

    def _kept_state(self, connection: RespConnection) -> tuple[OnlinePauses, str] | None:
        raw = connection.execute("GET", self._keys.pauses)
        if raw is None:
            return None
        if not isinstance(raw, bytes):
            raise RedisError(f"no reply to GET: {str(raw)[:80]}")
        try:
            return decode_state(raw, self.pauses.weights)
        except SchemaError as error:
            self.refused_state = str(error)
            return None
