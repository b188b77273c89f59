"""Pauses as a fixed table knows them, by tool: what a policy inside an engine sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.estimates import PauseTable, table_remaining_s
from rlkv_service.pause_estimates import RemainingPauses


class TableEstimates:
    """``PauseEstimates`` from the pauses of training sessions, the same for every engine."""

    def __init__(self, table: PauseTable) -> None:
        self._table = table
        self._row = {tool: row for row, tool in enumerate(table.tools)}

    def remaining(
        self,
        engine_id: str,
        sessions: Sequence[str],
        tools: Sequence[str],
        elapsed_s: NDArray[np.float64],
    ) -> RemainingPauses:
        """What is left of each pause, by its tool and how long it has lasted."""
        rows = [self._row.get(tool, len(self._row)) for tool in tools]
        mean_s = [
            table_remaining_s(self._table.residual_s, row, elapsed)
            for row, elapsed in zip(rows, elapsed_s, strict=True)
        ]
        left = [
            _left_s(self._table.quantiles_s[row], elapsed)
            for row, elapsed in zip(rows, elapsed_s, strict=True)
        ]
        p50_s, p90_s = np.array(left).reshape(-1, 2).T
        return RemainingPauses(np.array(mean_s), p50_s, p90_s)

    def mean_pause_s(self, engine_id: str) -> float:
        """Mean of all pauses, seconds."""
        return self._table.mean_pause_s

    def table(self, engine_id: str) -> PauseTable:
        """The table."""
        return self._table


def _left_s(quantiles_s: NDArray[np.float64], elapsed_s: float) -> tuple[float, float]:
    """Median and 90 % quantile of what is left of a pause that has lasted for ``elapsed_s``."""
    longer = quantiles_s[quantiles_s > elapsed_s]
    if len(longer) < 2:
        return elapsed_s, 2.0 * elapsed_s  # longer than any that was seen: as long again
    p50_s, p90_s = np.quantile(longer, (0.5, 0.9)) - elapsed_s
    return float(p50_s), float(p90_s)
