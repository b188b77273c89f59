"""What is measured of one run (design: normalized latency, resume latency, recompute, waste)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.engine import Engine

#: Upper ends of the gap buckets, seconds of pause before a turn; the last bucket is open.
GAP_BUCKETS_S = (0.1, 1.0, 10.0, 60.0)
GAP_NAMES = ("< 0.1 s", "0.1-1 s", "1-10 s", "10-60 s", "> 60 s")


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """One policy on one trace.

    ``normalized_latency_s``: (finish - arrival - pauses) / generated tokens, by session.
    ``resume_latency_s``: tool return to the next token, by turn after the first.
    """

    normalized_latency_s: NDArray[np.float64]  # [num_sessions]
    resume_latency_s: NDArray[np.float64]  # [num_resumes]
    resume_gap: NDArray[np.int64]  # [num_resumes], index into GAP_NAMES
    first_token_s: NDArray[np.float64]  # [num_sessions]
    recompute_ratio: float  #: tokens computed again / tokens computed
    waste: float  #: device memory held by paused sessions / device memory, over time
    busy_ratio: float  #: share of the time with work in the batch
    duration_s: float
    sessions_finished: int
    num_decisions: int
    num_preemptions: int
    num_iterations: int

    @property
    def mean_latency_s(self) -> float:
        """Mean normalized latency, the number policies are compared by."""
        return float(self.normalized_latency_s.mean())


def measure(engine: Engine) -> RunResult:
    """The metrics of an engine whose sessions have all finished."""
    trace, st = engine.trace, engine.state
    n, f = st.n, st.f
    active_s = st.outcome[S.FINISH_S] - st.outcome[S.ARRIVED_S] - trace.total_pause_s
    latency = st.resume_latency_s
    is_first = np.zeros(trace.num_turns, bool)
    is_first[trace.first_turn[:-1]] = True
    gap_s = np.concatenate([[0.0], trace.pause_s[:-1]])
    pool_s = n[S.NUM_DEVICE] * f[S.NOW]
    return RunResult(
        normalized_latency_s=active_s / trace.output_tokens_per_session,
        resume_latency_s=latency[~is_first],
        resume_gap=np.searchsorted(GAP_BUCKETS_S, gap_s[~is_first], side="right"),
        first_token_s=latency[is_first],
        recompute_ratio=float(n[S.RECOMPUTED_TOKENS] / max(n[S.COMPUTED_TOKENS], 1)),
        waste=float(f[S.HELD_PAUSED] / pool_s) if pool_s > 0 else 0.0,
        busy_ratio=float(f[S.BUSY_S] / f[S.NOW]) if f[S.NOW] > 0 else 0.0,
        duration_s=float(f[S.NOW]),
        sessions_finished=int(n[S.NUM_FINISHED]),
        num_decisions=int(n[S.NUM_DECISIONS]),
        num_preemptions=int(n[S.NUM_PREEMPTIONS]),
        num_iterations=int(n[S.ITERATION] - 1),
    )
