"""What is measured of a run or an episode: latencies, recompute, waste and counts of events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

from rlkv_engine import state as S
from rlkv_engine.histogram import Histogram
from rlkv_engine.latency import first_token_s, normalized_latency_s, resume_latency_s

#: Quantiles that are reported.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class RunResult:
    """One engine on one trace; of a run that was cut short, the sessions and turns that ended.

    Means are exact, quantiles to 1 % (``rlkv_engine.histogram``).
    """

    normalized_latency_s: Histogram  #: by session, (finish - arrival - pauses) / generated tokens
    first_token_s: Histogram  #: by session, arrival to first token
    resume_latency_by_gap_s: list[Histogram]  #: by later turn, tool return to next token; GAP_NAMES
    recompute_ratio: float  #: tokens computed again / tokens computed
    waste: float  #: device memory held by paused sessions / device memory, over time
    busy_ratio: float  #: share of the time with work in the batch
    duration_s: float
    sessions_finished: int
    num_decisions: int
    num_preemptions: int
    num_iterations: int

    @property
    def resume_latency_s(self) -> Histogram:
        """Tool return to the next token, after whatever pause."""
        return reduce(add, self.resume_latency_by_gap_s)

    @property
    def mean_latency_s(self) -> float:
        """Mean normalized latency, the number policies are compared by."""
        return self.normalized_latency_s.mean_s

    def as_info(self) -> dict[str, float]:
        """The entries of an environment's ``info`` at the end of an episode; NaN of nothing."""
        return {
            **{
                f"{name}_{what}": value
                for name in ("normalized_latency_s", "resume_latency_s")
                for what, value in distribution(getattr(self, name)).items()
            },
            "recompute_ratio": self.recompute_ratio,
            "waste_ratio": self.waste,
            "duration_s": self.duration_s,
            "num_finished": float(self.sessions_finished),
            "num_decisions": float(self.num_decisions),
            "num_preemptions": float(self.num_preemptions),
        }


def distribution(histogram: Histogram) -> dict[str, float]:
    """``mean``, ``p50``, ``p90`` and ``p99``; NaN of nothing."""
    quantiles_s = histogram.quantiles_s(list(QUANTILES.values()))
    return {"mean": histogram.mean_s} | dict(zip(QUANTILES, quantiles_s, strict=True))


def measure(st: S.State) -> RunResult:
    """The metrics of one engine (not of a stack) so far."""
    n, f = st.n, st.f
    pool_s = n[S.NUM_DEVICE] * f[S.NOW]
    return RunResult(
        normalized_latency_s=normalized_latency_s(st),
        first_token_s=first_token_s(st),
        resume_latency_by_gap_s=resume_latency_s(st),
        recompute_ratio=float(n[S.RECOMPUTED_TOKENS] / max(n[S.COMPUTED_TOKENS], 1)),
        waste=float(f[S.HELD_PAUSED] / pool_s) if pool_s > 0 else 0.0,
        busy_ratio=float(f[S.BUSY_S] / f[S.NOW]) if f[S.NOW] > 0 else 0.0,
        duration_s=float(f[S.NOW]),
        sessions_finished=int(n[S.NUM_FINISHED]),
        num_decisions=int(n[S.NUM_DECISIONS]),
        num_preemptions=int(n[S.NUM_PREEMPTIONS]),
        num_iterations=int(n[S.ITERATION] - 1),
    )
