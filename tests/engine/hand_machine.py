"""A machine with round numbers, for cases that are worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np

from rlkv_engine import rule as R
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Decision, Engine
from rlkv_engine.estimates import BY_TRUTH
from rlkv_engine.profile import Profile
from tests.engine.reference_session import Turn
from tests.engine.reference_worlds import make_trace

LAST = nan  # the pause of a session's last turn

#: Blocks of 4 tokens, one block a second over the link, whole prompts in one iteration.
MACHINE = Profile(
    name="hand",
    description="round numbers",
    block_size=4,
    kv_bytes_per_token=1,
    num_device_blocks=100,
    num_host_blocks=100,
    iteration_s=0.5,
    prefill_token_s=0.01,
    prefill_token_context_s=0.001,
    decode_session_s=0.1,
    kv_token_s=0.002,
    swap_out_bytes_per_s=4.0,
    swap_in_bytes_per_s=4.0,
    swap_latency_s=0.0,
    shared_link=False,
    max_num_seqs=16,
    max_num_batched_tokens=1000,
)


def engine_of(
    sessions: list[list[Turn]],
    arrival_s: list[float] | None = None,
    *,
    order: int = R.ORDER_ELAPSED,
    num_concurrent: int = 0,
    switches: dict[str, Any] | None = None,
    **machine: Any,
) -> Engine:
    """An engine of these sessions on ``MACHINE`` changed so; the true pauses are the estimate."""
    rule = np.zeros(R.RULE_SIZE)
    rule[R.ORDER], rule[R.ESTIMATE] = order, BY_TRUTH
    rule[R.RESUME_VERB] = rule[R.GROW_VERB] = S.DISCARD
    trace = make_trace(sessions, arrival_s or [0.0] * len(sessions), num_concurrent)
    config = EngineConfig(**({"slack_ratio": 0.0} | (switches or {})))
    return Engine(replace(MACHINE, **machine), trace, rule, config=config, keep_outcome=True)


def prefill_s(tokens: int, computed: int = 0) -> float:
    """Time of an iteration with one chunk alone."""
    return 0.5 + 0.01 * tokens + 0.001 * tokens * (computed + tokens / 2)


def decode_s(*computed: int) -> float:
    """Time of an iteration that decodes sessions with so many tokens each."""
    return 0.5 + 0.1 * len(computed) + 0.002 * sum(computed)


def finish_s(engine: Engine) -> list[float]:
    return [float(time_s) for time_s in engine.state.outcome[S.FINISH_S]]


def slot_of(engine: Engine, sid: int) -> dict[str, int]:
    """Blocks and tokens of a session."""
    slot = engine.state.slot
    live = np.flatnonzero((slot[S.PHASE] != S.EMPTY) & (slot[S.SID] == sid))
    names = ("PHASE", "COMPUTED", "DEV", "KEEP", "HOST_LO", "HOST_HI", "JOB")
    return {name.lower(): int(slot[getattr(S, name), live[0]]) for name in names}


def asked(engine: Engine, point: Any, sid: int) -> Decision:
    """The next decision, which must be this one."""
    decision = engine.next_decision()
    assert decision is not None and (decision.point, decision.sid) == (point, sid)
    return decision


def answer_call(engine: Engine, sid: int, verb: Any, lease_s: float = inf) -> None:
    asked(engine, S.CALL, sid)
    engine.answer(int(verb), lease_s)


#: 9 tokens of KV at the pause, then 3 new ones.
PAUSING = [Turn(8, 0, 2, 5.0), Turn(12, 10, 1, LAST)]
PAUSE_START_S = prefill_s(8) + decode_s(8)
RETURN_S = PAUSE_START_S + 5.0
