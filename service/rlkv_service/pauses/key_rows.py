"""Rows of arrays for keys: a bounded number of them, the least recently used make room."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.estimates import MIN_CALLS

Key = tuple[str, ...]
#: Of all rows so many go at once when there is no room: sorting them for each would take long.
EVICTED_SHARE = 8


class KeyRows:
    """Which row belongs to which key.

    Keys that were used fewer than ``MIN_CALLS`` times go first, whenever that was: keys that appear
    once each, as of a client that makes names up, do not push out those in use. Who goes depends on
    keys and times alone, not on the order in which keys of the same time came.

    Args:
        capacity: rows.
    """

    def __init__(self, capacity: int) -> None:
        self.rows: dict[Key, int] = {}
        self.used_ms: NDArray[np.int64] = np.zeros(capacity, np.int64)  # [capacity]
        self.calls: NDArray[np.int64] = np.zeros(capacity, np.int64)  # [capacity]
        self._capacity = capacity
        self._free = list(range(capacity - 1, -1, -1))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, key: Key) -> tuple[int, list[Key]]:
        """A row for a new key, and the keys that had to go for it.

        What the row holds is of somebody who is gone.
        """
        gone = [] if self._free else self._make_room()
        row = self._free.pop()
        self.rows[key] = row
        self.used_ms[row] = self.calls[row] = 0
        return row, gone

    def use(self, row: int, at_ms: int) -> None:
        """Notes that a row was used."""
        self.used_ms[row] = at_ms
        self.calls[row] += 1

    def drop(self, key: Key) -> None:
        """Frees the row of a key; without one nothing happens."""
        row = self.rows.pop(key, None)
        if row is not None:
            self._free.append(row)

    def _make_room(self) -> list[Key]:
        used_ms, calls = self.used_ms.tolist(), self.calls.tolist()
        order = sorted(
            self.rows, key=lambda key: (
                calls[row := self.rows[key]] >= MIN_CALLS, used_ms[row], key
            )
        )  # fmt: skip
        gone = order[: max(1, self._capacity // EVICTED_SHARE)]
        for key in gone:
            self.drop(key)
        return gone
