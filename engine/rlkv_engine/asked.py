"""An iteration is planned up to a decision that somebody outside of the loop is to answer."""

from __future__ import annotations

import math

from rlkv_engine import loop
from rlkv_engine.jit import jit
from rlkv_engine.state import State, engine_view


@jit
def plan_on(st: State) -> int:
    """``loop.plan_memory`` without an end: DECIDE, FULL, or BATCH when all is planned."""
    return loop.plan_memory(st, math.inf)


@jit
def plan_to_decision(stack: State, e: int) -> int:
    """``plan_on`` for engine ``e`` of a stack."""
    return plan_on(engine_view(stack, e))
