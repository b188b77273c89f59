"""What an episode measured: latencies, recompute and waste of the engine that just ended."""

from __future__ import annotations

import numpy as np

from rlkv_engine import state as S
from rlkv_engine.trace import Trace


def episode_metrics(stack: S.State, engine: int, trace: Trace) -> dict[str, float]:
    """Metrics of one engine of a stack, over the sessions and turns that are finished.

    Returns:
        ``normalized_latency_s_*``: (finish - arrival - total pause) / generated tokens of a
        session; ``resume_latency_s_*``: tool return to the next generated token;
        ``recompute_ratio``: tokens computed again / tokens computed; ``waste_ratio``: device memory
        times time held firmly by paused sessions / all; counts of events. NaN where nothing is
        finished.
    """
    n, f = stack.n[engine], stack.f[engine]
    outcome = stack.outcome[engine][:, : trace.num_sessions]
    latency_s = outcome[S.FINISH_S] - outcome[S.ARRIVED_S] - trace.total_pause_s
    normalized_s = latency_s / trace.output_tokens_per_session
    is_first = np.zeros(trace.num_turns, bool)
    is_first[trace.first_turn[:-1]] = True
    resume_s = stack.resume_latency_s[engine][: trace.num_turns][~is_first]
    return {
        **_summary("normalized_latency_s", normalized_s),
        **_summary("resume_latency_s", resume_s),
        "recompute_ratio": float(n[S.RECOMPUTED_TOKENS] / max(1, n[S.COMPUTED_TOKENS])),
        "waste_ratio": float(f[S.HELD_PAUSED] / max(f[S.NOW] * n[S.NUM_DEVICE], 1e-12)),
        "duration_s": float(f[S.NOW]),
        "num_finished": float(n[S.NUM_FINISHED]),
        "num_decisions": float(n[S.NUM_DECISIONS]),
        "num_preemptions": float(n[S.NUM_PREEMPTIONS]),
    }


def _summary(name: str, values: np.ndarray) -> dict[str, float]:
    values = values[np.isfinite(values)]
    if not values.size:
        return {f"{name}_{what}": float("nan") for what in ("mean", "p50", "p90", "p99")}
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_p50": float(p50),
        f"{name}_p90": float(p90),
        f"{name}_p99": float(p99),
    }
