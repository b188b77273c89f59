"""How long tools take: what was seen of late, and what is expected."""

from __future__ import annotations

from collections import deque

import numpy as np

from rlkv_service.decision_api.live_snapshot import LiveTool
from rlkv_service.pause_estimates import PauseEstimates
from rlkv_service.schema import Outcome

#: Pauses of a tool that are kept; and tools, of which the one that was silent longest goes.
_KEPT_PAUSES = 256
_KEPT_TOOLS = 256


class LiveTools:
    """The latest pauses of each tool of each engine."""

    def __init__(self) -> None:
        self._pauses: dict[tuple[str, str], deque[float]] = {}

    def add(self, outcome: Outcome) -> None:
        """One more pause."""
        key = (outcome.engine_id, outcome.tool)
        pauses = self._pauses.pop(key, None) or deque(maxlen=_KEPT_PAUSES)
        pauses.append(outcome.pause_s)
        self._pauses[key] = pauses
        if len(self._pauses) > _KEPT_TOOLS:
            del self._pauses[next(iter(self._pauses))]

    def slowest(self, num: int, estimates: PauseEstimates | None) -> list[LiveTool]:
        """The tools with the longest median pause, the longest first."""
        seen = [
            (key, len(pauses), *np.quantile(list(pauses), (0.5, 0.9)).tolist())
            for key, pauses in self._pauses.items()
        ]
        seen.sort(key=lambda each: -each[2])
        return [
            LiveTool(tool, pauses, p50_s, p90_s, *_expected(engine_id, tool, estimates))
            for (engine_id, tool), pauses, p50_s, p90_s in seen[:num]
        ]


def _expected(
    engine_id: str, tool: str, estimates: PauseEstimates | None
) -> tuple[float | None, float | None]:
    if estimates is None:
        return None, None
    # Of a session that nobody knows, when its pause begins.
    left = estimates.remaining(engine_id, [""], [tool], np.zeros(1))
    return float(left.p50_s[0]), float(left.p90_s[0])
