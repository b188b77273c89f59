"""Joins session bodies and arrivals into a trace, with one random stream for each."""

from __future__ import annotations

import numpy as np

from rlkv_engine.errors import InputError
from rlkv_engine.trace import Trace
from rlkv_envs.workloads.arrivals import ArrivalProcess
from rlkv_envs.workloads.base import SPLITS, Split, Workload

_BODIES, _ARRIVALS = 0, 1


def substream(seed: int, stream: int, split: Split) -> np.random.Generator:
    """The generator of one named stream: streams and splits never share random numbers."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    if seed < 0:
        raise InputError(f"seed must be 0 or more, got {seed}")
    key = np.random.SeedSequence(seed, spawn_key=(stream, SPLITS.index(split)))
    return np.random.default_rng(key)


def make_trace(
    workload: Workload,
    arrivals: ArrivalProcess,
    *,
    seed: int,
    split: Split,
    num_sessions: int,
) -> Trace:
    """Draws a trace.

    Bodies and arrivals have streams of their own, so that one seed gives the same sessions
    whatever the arrival process or its rate (common random numbers).

    Raises:
        InputError: unknown split, negative seed, no sessions asked for or none in the split.
    """
    if num_sessions < 1:
        raise InputError(f"num_sessions must be 1 or more, got {num_sessions}")
    bodies = workload.bodies(substream(seed, _BODIES, split), split, num_sessions)
    arrival_s = arrivals.arrival_times_s(substream(seed, _ARRIVALS, split), num_sessions)
    return bodies.with_arrivals(arrival_s, arrivals.num_concurrent)
