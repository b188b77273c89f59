"""What the plug-in has done, in numbers that only grow, and what it holds now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class Tally:
    """Counts by name; ``DECISIONS`` has labels in its names."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, num: int = 1) -> None:
        """Something has happened."""
        if num:
            self._counts[name] += num

    def decided(self, verb: str, source: str) -> None:
        """A verdict was applied: who gave it is the source."""
        self._counts[f"decisions:{verb}:{source}"] += 1

    def __getitem__(self, name: str) -> int:
        return self._counts.get(name, 0)

    def snapshot(self) -> Mapping[str, int]:
        """All counts that are not 0."""
        return dict(self._counts)
