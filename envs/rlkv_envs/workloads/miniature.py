"""The same sessions, small and fast: for a small model, or to watch minutes in seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.workloads.arrivals import ArrivalProcess
from rlkv_envs.workloads.base import Split, Workload
from rlkv_envs.workloads.session_arrays import fit_contexts, scale_contexts

#: Sessions from which the scale is taken, and their longest context but for so many.
_SCALE_SESSIONS = 400
_FITTING_SHARE = 0.9


class Miniature(Workload):
    """A workload whose contexts fit a small model and whose pauses are short.

    All tokens are scaled by one number, so that nine tenths of the sessions fit
    ``max_context_tokens``; longer ones are scaled down each by itself. All pauses are scaled by one
    number, and then no longer than ``max_pause_s``.

    Raises:
        InputError: a limit that cannot be.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        max_context_tokens: int,
        mean_pause_s: float,
        max_pause_s: float = float("inf"),
    ) -> None:
        if not 0.0 < mean_pause_s < float("inf"):
            raise InputError(f"mean_pause_s must be positive, got {mean_pause_s}")
        self._workload, self._max_context_tokens = workload, max_context_tokens
        self._max_pause_s = max_pause_s
        bodies = workload.bodies(np.random.default_rng(0), "train", _SCALE_SESSIONS)
        longest = np.maximum.reduceat(
            bodies.input_tokens + bodies.output_tokens, bodies.first_turn[:-1]
        )
        self._tokens_scale = min(1.0, max_context_tokens / np.quantile(longest, _FITTING_SHARE))
        self._pause_scale = mean_pause_s / bodies.mean_pause_s()

    @property
    def name(self) -> str:
        """The name of the workload it is made of."""
        return self._workload.name

    @property
    def description(self) -> str:
        """What it is made of, and the scales."""
        return (
            f"{self._workload.description}; tokens x {self._tokens_scale:.3g},"
            f" pauses x {self._pause_scale:.3g}"
        )

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools of the workload it is made of."""
        return self._workload.tools

    def default_arrivals(self, rate_per_s: float) -> ArrivalProcess:
        """Those of the workload it is made of."""
        return self._workload.default_arrivals(rate_per_s)

    def bodies(self, rng: np.random.Generator, split: Split, num_sessions: int) -> Trace:
        """Draws sessions of the workload it is made of, and scales them."""
        trace = self._workload.bodies(rng, split, num_sessions)
        trace = fit_contexts(scale_contexts(trace, self._tokens_scale), self._max_context_tokens)
        # A trace that is made new lays out its columns anew.
        columns: dict[str, Any] = {
            "pause_s": np.minimum(trace.pause_s * self._pause_scale, self._max_pause_s)
        }
        return replace(trace, **columns)
