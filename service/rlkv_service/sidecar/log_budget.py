"""How many entries of the log of decisions fit into the bytes that it may take."""

from __future__ import annotations

import threading

from rlkv_service.resp_parser import Word

#: That the log of decisions may take.
DEFAULT_LOG_BYTES = 256 * 2**20
#: Of an entry beside request and answer, about, bytes.
_OVERHEAD_BYTES = 96
#: Weight of the newest entry in the running mean of their sizes.
_WEIGHT = 0.01


class LogBudget:
    """Turns bytes into a length of the stream, by the mean size of entries. For several threads.

    Args:
        key: of the stream.
        num_bytes: that the stream may take, about; 0 keeps no log.
    """

    def __init__(self, key: str, num_bytes: int) -> None:
        self._key, self._num_bytes = key, num_bytes
        self._lock = threading.Lock()
        self._mean_bytes = 0.0
        self._must_shrink = False

    @property
    def is_logging(self) -> bool:
        """Whether there is a log."""
        return self._num_bytes > 0

    def command(self, request: bytes, answer: bytes, at_s: float) -> tuple[Word, ...]:
        """The command that writes an entry, and cuts the stream; ``at_s`` since the epoch."""
        size = len(request) + len(answer) + _OVERHEAD_BYTES
        with self._lock:
            if self._mean_bytes:
                self._mean_bytes += _WEIGHT * (size - self._mean_bytes)
            else:
                self._mean_bytes = float(size)
            most = max(int(self._num_bytes / self._mean_bytes), 1)
        entry = ("q", request, "a", answer, "at", f"{at_s:.6f}")
        return ("XADD", self._key, "MAXLEN", "~", most, "*", *entry)

    def measured(self, num_bytes: int, num_entries: int) -> None:
        """The stream takes so much now: better than a mean of what passed by here."""
        if num_bytes > 0 and num_entries > 0:
            with self._lock:
                self._mean_bytes = num_bytes / num_entries

    def failed(self, reason: str) -> None:
        """The server refused an entry; if it lacks memory, half of the log is given up."""
        if reason.startswith("OOM"):
            with self._lock:
                self._must_shrink = True

    def shrink(self, num_entries: int) -> tuple[Word, ...] | None:
        """The command that gives up half of the stream's entries, if it must; once."""
        with self._lock:
            must, self._must_shrink = self._must_shrink, False
        return ("XTRIM", self._key, "MAXLEN", num_entries // 2) if must else None
