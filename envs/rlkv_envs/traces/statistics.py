"""Figures that describe a trace, and those that describe arrival windows."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.trace import Trace
from rlkv_envs.traces.servegen_csv import FAMILIES, Windows

LEVELS: Final[tuple[float, ...]] = (0.10, 0.25, 0.50, 0.75, 0.90, 0.99)


def describe(values: NDArray[Any]) -> dict[str, float | int]:
    """Count, mean, quantiles at ``LEVELS`` (``p10`` ...) and maximum of one figure.

    Only the count (0) where there are no values.
    """
    if len(values) == 0:
        return {"count": 0}
    quantiles = np.quantile(values, LEVELS)
    named = {f"p{level * 100:.0f}": float(q) for level, q in zip(LEVELS, quantiles, strict=True)}
    return {
        "count": len(values),
        "mean": float(np.mean(values)),
        **named,
        "max": float(np.max(values)),
    }


def pauses_by_tool(trace: Trace) -> dict[str, NDArray[np.float64]]:
    """Pauses in seconds of each tool that is called at all, the most called first."""
    called = trace.tool >= 0
    counts = np.bincount(trace.tool[called], minlength=len(trace.tools))
    order = np.argsort(-counts, kind="stable")
    return {trace.tools[i]: trace.pause_s[trace.tool == i] for i in order if counts[i]}


def trace_statistics(trace: Trace) -> dict[str, Any]:
    """Sessions, turns, and the distribution of each figure (see ``describe``).

    ``new_tokens`` is what a turn after the first must compute: prompt less shared prefix;
    ``shared_prefix_ratio`` is the shared prefix over the prompt of those turns.
    """
    later = np.ones(trace.num_turns, bool)
    later[trace.first_turn[:-1]] = False
    new_tokens = trace.input_tokens - trace.shared_prefix_tokens
    arrival_s = trace.arrival_s
    has_arrivals = trace.num_sessions > 0 and bool(np.isfinite(arrival_s).all())
    span_s = float(arrival_s[-1] - arrival_s[0]) if has_arrivals else None
    return {
        "name": trace.name,
        "num_sessions": trace.num_sessions,
        "num_roots": len(set(trace.roots)),
        "num_turns": trace.num_turns,
        "num_concurrent": trace.num_concurrent,
        "max_context_tokens": trace.max_context_tokens,
        "arrival_span_s": span_s,
        "arrival_rate_per_s": (trace.num_sessions - 1) / span_s if span_s else None,
        "turns": describe(np.diff(trace.first_turn)),
        "input_tokens": describe(trace.input_tokens),
        "output_tokens": describe(trace.output_tokens),
        "new_tokens": describe(new_tokens[later]),
        "shared_prefix_ratio": describe(
            trace.shared_prefix_tokens[later] / trace.input_tokens[later]
        ),
        "pause_s": {tool: describe(pauses) for tool, pauses in pauses_by_tool(trace).items()},
    }


def window_statistics(windows: Windows) -> dict[str, Any]:
    """Number and length of windows, and the distribution of their rates and burstiness."""
    active = windows.rate_per_s > 0
    return {
        "num_windows": len(windows.rate_per_s),
        "window_s": windows.window_s,
        "num_active_windows": int(active.sum()),
        "mean_rate_per_s": windows.mean_rate_per_s,
        "families": {family: windows.family.count(family) for family in FAMILIES},
        "rate_per_s": describe(windows.rate_per_s[active]),
        "cv": describe(windows.cv[active]),
    }
