"""What a decider wants to know of pauses, whoever knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.estimates import PauseTable


class RemainingPauses(NamedTuple):
    """What is left of pauses that last already, seconds."""

    mean_s: NDArray[np.float64]  # [n], within the horizon of estimates.py
    p50_s: NDArray[np.float64]  # [n]
    p90_s: NDArray[np.float64]  # [n]


class PauseEstimates(Protocol):
    """Knows pauses by engine, session and tool."""

    def remaining(
        self,
        engine_id: str,
        sessions: Sequence[str],
        tools: Sequence[str],
        elapsed_s: NDArray[np.float64],
    ) -> RemainingPauses:
        """What is left of each pause, given how long it has lasted."""

    def mean_pause_s(self, engine_id: str) -> float:
        """Mean of the pauses of an engine, seconds; NaN where none is known."""

    def table(self, engine_id: str) -> PauseTable | None:
        """All pauses of an engine, as rules and advice take them; None where too few are known.

        Its last row is looked at; rows for the tools it need not have.
        """
