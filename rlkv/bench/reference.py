"""The compiled engine against the plain Python scheduler that the tests hold it to."""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlkv_engine import rule as R
from rlkv_engine.engine import Engine
from rlkv_engine.estimates import BY_ELAPSED, fit_pause_table
from rlkv_engine.loop import RULE_POLICY
from rlkv_engine.profile import Profile, load_profile
from rlkv_engine.state import SWAP
from rlkv_engine.trace import Trace
from rlkv_envs.workloads import make_trace, make_workload
from rlkv_envs.workloads.arrivals import ClosedLoop

_ROOT = Path(__file__).resolve().parents[2]


def reference_speedup(num_sessions: int) -> float | None:
    """Times that the engine is faster than plain Python on one trace; None without a checkout.

    Both run the same closed loop to its end, swap the least recently used, and make the same plans.
    """
    if not (_ROOT / "tests" / "engine" / "reference_scheduler.py").exists():
        return None
    trace = make_trace(
        make_workload("crossover"),
        ClosedLoop(num_sessions),
        seed=0,
        split="test",
        num_sessions=2 * num_sessions,
    )
    base = load_profile("gptj-6b-a100-40gb")
    profile = replace(base, num_device_blocks=max(24 * num_sessions, 256))
    python_s, python_end_s = _python_s(profile, trace)
    # The first run may compile; of the others the median.
    runs = [_compiled_s(profile, trace) for _ in range(6)][1:]
    compiled_s, compiled_end_s = sorted(runs)[len(runs) // 2]
    if not np.isclose(python_end_s, compiled_end_s, rtol=1e-9):
        raise RuntimeError(f"different runs: they end at {python_end_s} and {compiled_end_s} s")
    return python_s / compiled_s


def _compiled_s(profile: Profile, trace: Trace) -> tuple[float, float]:
    rule = np.zeros(R.RULE_SIZE)
    rule[R.ORDER] = R.ORDER_ELAPSED
    rule[R.ESTIMATE] = BY_ELAPSED
    rule[[R.CALL_VERB, R.NEW_VERB, R.RESUME_VERB, R.GROW_VERB]] = SWAP
    rule[R.SLACK_RATIO] = 0.012  # as the reference's default
    engine = Engine(profile, trace, rule, table=fit_pause_table(trace))
    start = time.process_time()
    engine.run(RULE_POLICY)
    return time.process_time() - start, engine.now_s


@dataclass(frozen=True, slots=True)
class _SwapLru:
    """What the rule above says, in the terms of the reference."""

    swap: Any

    def score(self, session: Any, kind: Any, now_s: float) -> float:
        return float(now_s - session.pause_start_s)

    def remaining(self, session: Any, now_s: float) -> float:
        return float(now_s - session.pause_start_s)

    def call(self, session: Any, now_s: float) -> tuple[Any, float]:
        return self.swap, float("inf")

    def revisit(self, session: Any, kind: Any, now_s: float, take: int) -> Any:
        return self.swap

    def forced(self, session: Any, kind: Any, now_s: float) -> Any:
        return self.swap


def _python_s(profile: Profile, trace: Trace) -> tuple[float, float]:
    sys.path.insert(0, str(_ROOT))
    try:
        scheduler = importlib.import_module("tests.engine.reference_scheduler")
        session = importlib.import_module("tests.engine.reference_session")
    finally:
        sys.path.remove(str(_ROOT))
    modes = session.Modes(mean_pause_s=fit_pause_table(trace).mean_pause_s)
    reference = scheduler.ReferenceScheduler(trace, profile, _SwapLru(session.Verb.SWAP), modes)
    start = time.process_time()
    # Without the checks that `run` makes in every iteration.
    while reference.step():
        pass
    return time.process_time() - start, reference.now_s
