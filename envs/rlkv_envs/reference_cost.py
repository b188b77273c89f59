"""What the reference rule costs over the time of a trace: the baseline of paired rewards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.jit import jit
from rlkv_engine.layout import grow_slots, reset_engine
from rlkv_engine.loop import DONE, FULL, RULE_POLICY, Policy, run_policy
from rlkv_engine.state import COST, NOW, ZERO, State, engine_view
from rlkv_engine.trace import Trace
from rlkv_envs.stepping import Reference

#: Points of a recorded curve; even.
NUM_POINTS = 4096
#: Their first spacing, seconds; doubled whenever the points run out.
FIRST_STEP_S = 0.0625

# Where a recording stands: entries of its progress array.
POINT, STEP_S, LAST_S, LAST_COST = range(4)


@jit
def _fill(curve: NDArray[np.float64], at: NDArray[np.float64], now: float, cost: float) -> None:
    # Points up to now, linear since the last time that was looked at.
    k = int(at[POINT])
    while k < curve.shape[0] and k * at[STEP_S] <= now:
        part = (k * at[STEP_S] - at[LAST_S]) / (now - at[LAST_S]) if now > at[LAST_S] else 1.0
        curve[k] = at[LAST_COST] + part * (cost - at[LAST_COST])
        k += 1
    at[POINT] = k
    at[LAST_S] = now
    at[LAST_COST] = cost


@jit
def _record(
    stack: State, policy: Policy, curve: NDArray[np.float64], at: NDArray[np.float64]
) -> int:
    # Engine 0 to its end, or FULL (grow the slots and call again).
    st = engine_view(stack, 0)
    while True:
        code = run_policy(stack, ZERO, policy, at[POINT] * at[STEP_S])
        if code == FULL:
            return code
        _fill(curve, at, st.f[NOW], st.f[COST])
        if code == DONE:
            for k in range(int(at[POINT]), curve.shape[0]):
                curve[k] = st.f[COST]
            return code
        while int(at[POINT]) == curve.shape[0]:
            half = curve.shape[0] // 2
            for k in range(half):
                curve[k] = curve[2 * k]
            at[POINT] = half
            at[STEP_S] *= 2.0
            _fill(curve, at, st.f[NOW], st.f[COST])


def record_reference(stack: State, traces: Sequence[Trace]) -> tuple[Reference, State]:
    """Runs the stack's own rule on every trace of its bank, on engine 0.

    Args:
        stack: engines over the bank of ``traces``; engine 0 is left at the end of the last trace.
        traces: the bank.

    Returns:
        The curves, and the stack, which may have grown.
    """
    cost = np.zeros((len(traces), NUM_POINTS))
    step_s = np.zeros(len(traces))
    unit = np.zeros(len(traces))
    first_session = 0
    for index, trace in enumerate(traces):
        reset_engine(stack, 0, first_session, trace)
        at = np.array([1.0, FIRST_STEP_S, 0.0, 0.0])
        while _record(stack, RULE_POLICY, cost[index], at) == FULL:
            stack = grow_slots(stack)
        step_s[index] = at[STEP_S]
        unit[index] = stack.f[0, S.COST] / max(1, stack.n[0, S.NUM_DECISIONS])
        first_session += trace.num_sessions
    return Reference(cost, step_s, unit), stack
