"""The last pauses of each session on each tool."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkv_service.pauses.bins import bin_of
from rlkv_service.pauses.key_rows import Key, KeyRows

#: Pauses of a session on a tool that are kept.
NUM_KEPT = 8


class OwnPauses:
    """Bins of the last ``NUM_KEPT`` pauses by engine, session and tool.

    Args:
        capacity: sessions' tools; beyond it the least recently used go.
    """

    def __init__(self, capacity: int) -> None:
        self.keys = KeyRows(capacity)
        self.bins: NDArray[np.uint16] = np.zeros((capacity, NUM_KEPT), np.uint16)  # newest first
        self.num: NDArray[np.int64] = np.zeros(capacity, np.int64)
        self._of_session: dict[tuple[str, str], list[Key]] = {}

    def add(self, engine_id: str, session: str, tool: str, pause_s: float, at_ms: int) -> None:
        """Adds a pause that was over at a time."""
        key = (engine_id, session, tool)
        row = self.keys.rows.get(key, -1)
        if row < 0:
            row = self.take(key)
        self.bins[row, 1:] = self.bins[row, :-1]
        self.bins[row, 0] = bin_of(pause_s)
        self.num[row] = min(self.num[row] + 1, NUM_KEPT)
        self.keys.use(row, at_ms)

    def take(self, key: Key) -> int:
        """A row without pauses for a new engine, session and tool."""
        row, gone = self.keys.take(key)
        for each in gone:
            self._forget_key(each)
        self._of_session.setdefault((key[0], key[1]), []).append(key)
        self.num[row] = 0
        return row

    def drop_session(self, engine_id: str, session: str) -> None:
        """Frees the rows of a session."""
        for key in self._of_session.pop((engine_id, session), ()):
            self.keys.drop(key)

    def _forget_key(self, key: Key) -> None:
        of_session = self._of_session[key[0], key[1]]
        of_session.remove(key)
        if not of_session:
            del self._of_session[key[0], key[1]]
