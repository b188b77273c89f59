"""Learns how long pauses last while they happen: by session and tool, by tool, and by engine."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.estimates import GRID_S, HORIZON_PAUSES, MIN_CALLS, PauseTable
from rlkv_service.pause_estimates import RemainingPauses
from rlkv_service.pauses.bins import HIGH_S, NUM_EDGES, edges_s
from rlkv_service.pauses.laws import (
    fill_law,
    fill_remaining,
    heavy_tail,
    refresh_laws,
    spread_tables,
)
from rlkv_service.pauses.own_pauses import NUM_KEPT, OwnPauses
from rlkv_service.pauses.sketches import Sketches
from rlkv_service.schema import MAX_NAME_LENGTH, SchemaError

#: What is kept at most, over all engines: engines, tools of engines, tools of their sessions.
MAX_ENGINES = 256
MAX_TOOLS = 1024
MAX_OWN = 16_384
_NONE: NDArray[np.int64] = np.array([-1])
_P50_P90 = np.array([0.5, 0.9])


@dataclass(frozen=True, slots=True)
class PauseWeights:
    """How much what was seen counts; the defaults are measured in docs/learning-from-traffic.md.

    Args:
        engine_memory: pauses that an engine's sketch remembers.
        tool_memory: pauses that a tool's sketch remembers.
        tool_doubt: pauses like those of all tools that a tool's own are mixed with.
        session_doubt: pauses like those of its tool that a session's own are mixed with.
        session_fading: weight of a session's pause over that of its next one.
        session_spread: standard deviation of the logarithm by which a session repeats its pauses.
        unseen_s: scale of the heavy tail that stands for one pause before any is seen, seconds.
    """

    engine_memory: float = 4000.0
    tool_memory: float = 1000.0
    tool_doubt: float = 4.0
    session_doubt: float = 6.0
    session_fading: float = 0.9
    session_spread: float = 0.3
    unseen_s: float = 1.0


class OnlinePauses:
    """Pauses of engines by session, tool and engine; implements ``PauseEstimates``.

    A session's last pauses on a tool are mixed with the law of the tool, that with the law of the
    engine, and that with a heavy tail, so that something follows for any elapsed time. Older pauses
    count less. Memory is bounded (``MAX_ENGINES``, ``MAX_TOOLS``, ``MAX_OWN``: about 20 MB), and
    what is kept follows from the outcomes in their order alone, never from what was asked: whoever
    has the same outcomes has the same state. May be used by several threads.
    """

    def __init__(self, weights: PauseWeights | None = None) -> None:
        self.weights = weights = weights or PauseWeights()
        self.lock = threading.RLock()
        self.tools = Sketches(MAX_TOOLS, weights.tool_memory)
        self.engines = Sketches(MAX_ENGINES, weights.engine_memory)
        self.own = OwnPauses(MAX_OWN)
        self._edges = edges_s()
        self._tail = heavy_tail(weights.unseen_s)
        self._spread, self._spread_integral = spread_tables(weights.session_spread)
        self._own_weight = np.power(weights.session_fading, np.arange(NUM_KEPT, dtype=np.float64))
        # Laws of the tools, and of all tools of the engine in question in the last row. They are
        # made when they are asked for, and good as long as the engine's number of pauses.
        self._survival: NDArray[np.float64] = np.zeros((MAX_TOOLS + 1, NUM_EDGES))
        self._integral: NDArray[np.float64] = np.zeros((MAX_TOOLS + 1, NUM_EDGES))
        self._law_calls: NDArray[np.int64] = np.full(MAX_TOOLS, -1, np.int64)

    def add(self, engine_id: str, session: str, tool: str, pause_s: float, at_ms: int) -> None:
        """Learns from a pause.

        Args:
            engine_id: whose session it was.
            session: which.
            tool: what it waited for.
            pause_s: how long; what lasts longer than ``bins.HIGH_S`` counts as so long.
            at_ms: when that was known, milliseconds of whatever clock.

        Raises:
            SchemaError: a pause is no finite number of 0 or more, or a name is too long.
        """
        if not 0.0 <= pause_s < math.inf:
            raise SchemaError(f"pause_s cannot be {pause_s:g}")
        for name in (engine_id, session, tool):
            if len(name) > MAX_NAME_LENGTH:
                raise SchemaError(f"a name of {len(name)} characters, at most {MAX_NAME_LENGTH}")
        pause_s = min(pause_s, HIGH_S)
        with self.lock:
            _, is_new = self.engines.add((engine_id,), pause_s, at_ms)
            if is_new:
                self._law_calls[:] = -1
            row, is_new = self.tools.add((engine_id, tool), pause_s, at_ms)
            if is_new:
                self._law_calls[row] = -1
            self.own.add(engine_id, session, tool, pause_s, at_ms)

    def end(self, engine_id: str, session: str) -> None:
        """Forgets a session that is over; what its tools learnt from it stays."""
        with self.lock:
            self.own.drop_session(engine_id, session)

    def remaining(
        self,
        engine_id: str,
        sessions: Sequence[str],
        tools: Sequence[str],
        elapsed_s: NDArray[np.float64],
    ) -> RemainingPauses:
        """What is left of each pause, given how long it has lasted; NaN for an unknown engine."""
        num = len(tools)
        with self.lock:
            engine = self.engines.row_of((engine_id,))
            if engine < 0:
                unknown = np.full(num, np.nan)
                return RemainingPauses(unknown, unknown, unknown)
            tool_rows = np.fromiter(
                map(self.tools.keys.rows.get, zip(repeat(engine_id), tools), repeat(-1)),
                np.int64, num,
            )  # fmt: skip
            own_rows = np.fromiter(
                map(self.own.keys.rows.get, zip(repeat(engine_id), sessions, tools), repeat(-1)),
                np.int64, num,
            )  # fmt: skip
            mean_s, quantiles_s = np.empty(num), np.empty((2, num))
            elapsed = np.ascontiguousarray(elapsed_s, np.float64)
            self._fill(engine, tool_rows, own_rows, elapsed, _P50_P90, mean_s, quantiles_s)
        return RemainingPauses(mean_s, quantiles_s[0], quantiles_s[1])

    def mean_pause_s(self, engine_id: str) -> float:
        """Mean of the pauses of an engine, seconds; NaN where none is known."""
        with self.lock:
            engine = self.engines.row_of((engine_id,))
            return math.nan if engine < 0 else self.engines.mean_s(engine)

    def table(self, engine_id: str) -> PauseTable | None:
        """All pauses of an engine together; None with fewer than ``MIN_CALLS`` of them."""
        with self.lock:
            engine = self.engines.row_of((engine_id,))
            if engine < 0 or self.engines.keys.calls[engine] < MIN_CALLS:
                return None
            num = len(GRID_S)
            residual_s, quantiles_s = np.empty((1, num)), np.empty((101, 1))
            self._fill(
                engine, _NONE.repeat(num), _NONE.repeat(num), GRID_S, np.zeros(0),
                residual_s[0], np.empty((0, num)),
            )  # fmt: skip
            self._fill(
                engine, _NONE, _NONE, np.zeros(1), np.arange(101) / 100.0, np.empty(1), quantiles_s
            )
            mean_s = np.array([self.engines.mean_s(engine)])
        return PauseTable((), residual_s, mean_s, quantiles_s.T)

    def replace(self, other: OnlinePauses) -> None:
        """Takes over what another one knows, which must not be used any more."""
        with self.lock:
            self.tools, self.engines, self.own = other.tools, other.engines, other.own
            self._law_calls[:] = -1

    def _fill(
        self,
        engine: int,
        tool_rows: NDArray[np.int64],
        own_rows: NDArray[np.int64],
        elapsed_s: NDArray[np.float64],
        levels: NDArray[np.float64],
        mean_s: NDArray[np.float64],
        quantiles_s: NDArray[np.float64],
    ) -> None:
        calls = int(self.engines.keys.calls[engine])
        every, every_integral = self._survival[MAX_TOOLS], self._integral[MAX_TOOLS]
        fill_law(self.engines.weight[engine], 1.0, self._tail, self._edges, every, every_integral)
        refresh_laws(
            tool_rows, self._law_calls, calls, self.tools.weight, self.weights.tool_doubt, every,
            self._edges, self._survival, self._integral,
        )  # fmt: skip
        horizon_s = max(HORIZON_PAUSES * self.engines.mean_s(engine), 1e-6)
        fill_remaining(
            np.where(tool_rows < 0, MAX_TOOLS, tool_rows), self._survival, self._integral,
            own_rows, self.own.bins, self.own.num, self._own_weight, self.weights.session_doubt,
            self._spread, self._spread_integral, self._edges, elapsed_s, horizon_s, levels,
            mean_s, quantiles_s,
        )  # fmt: skip
