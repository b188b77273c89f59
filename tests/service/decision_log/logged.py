"""A log as engines and sidecars write it, from sessions that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import facts as F
from rlkv_engine.trace import Trace
from rlkv_envs.workloads import make_trace, make_workload
from rlkv_envs.workloads.arrivals import Poisson
from rlkv_service.columns import DecisionRows, VerdictRows, request_of, verdicts_of
from rlkv_service.redis_keys import RedisKeys
from rlkv_service.resp import RespConnection
from rlkv_service.schema import SCHEMA_VERSION, Outcome, Reason, SessionEnd, Verb, encode

KEYS = RedisKeys()
#: Seconds since the epoch.
START_S = 1_790_000_000.0
TOKEN_S = 0.01


def drawn(num_sessions: int = 40, workload: str = "coding-agent") -> Trace:
    return make_trace(
        make_workload(workload), Poisson(1.0), seed=3, split="test", num_sessions=num_sessions
    )


def messages_of(
    trace: Trace, engine_id: str = "engine", with_new_tokens: bool = True
) -> list[Outcome | SessionEnd]:
    """What an engine reports of a trace's sessions, in the order in which it happens."""
    timed: list[tuple[float, int, Outcome | SessionEnd]] = []
    for session in range(trace.num_sessions):
        started_s = now_s = START_S + float(trace.arrival_s[session])
        first, end = int(trace.first_turn[session]), int(trace.first_turn[session + 1])
        for i in range(first, end):
            now_s += TOKEN_S * int(trace.output_tokens[i])
            common: dict[str, Any] = {
                "v": SCHEMA_VERSION,
                "engine_id": engine_id,
                "session": trace.session_ids[session],
                "turn": i - first,
                "input_tokens": int(trace.input_tokens[i]),
                "output_tokens": int(trace.output_tokens[i]),
                "started_s": started_s,
            }
            message: Outcome | SessionEnd
            if i == end - 1:
                message = SessionEnd(**common, ended_s=now_s)
            else:
                now_s += float(trace.pause_s[i])
                new = int(trace.input_tokens[i + 1] - trace.shared_prefix_tokens[i + 1])
                context = int(trace.input_tokens[i] + trace.output_tokens[i])
                message = Outcome(
                    **common,
                    ended_s=now_s,
                    tool=trace.tools[trace.tool[i]],
                    pause_s=float(trace.pause_s[i]),
                    context_tokens=context,
                    new_tokens=new if with_new_tokens else 0,
                    reused_device_tokens=context if i % 2 else 0,
                    recomputed_tokens=0 if i % 2 else context,
                    verb=int(Verb.PRESERVE if i % 2 else Verb.DISCARD),
                    policy_version="v1",
                )
            timed.append((now_s, i, message))
    return [message for _, _, message in sorted(timed, key=lambda each: each[:2])]


def facts_of(num: int, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    facts = rng.integers(1, 50, (num, F.NUM_FACTS)).astype(np.float64)
    facts[:, F.POINT] = np.arange(num) % 4
    facts[:, F.ELAPSED_S] = 0.5
    facts[:, F.LIFE_S] = np.nan
    return facts


def log_decisions(
    connection: RespConnection,
    sessions: Sequence[str],
    turns: Sequence[int],
    tools: Sequence[str],
    *,
    p50_s: float = 1.0,
    p90_s: float = 9.0,
    by_rule: bool = False,
    request_id: int = 1,
    engine_id: str = "engine",
    entry_id: str = "*",
) -> tuple[DecisionRows, VerdictRows]:
    """Writes an answered request as a sidecar does."""
    num = len(sessions)
    rows = DecisionRows(list(sessions), np.array(turns), list(tools), facts_of(num, request_id))
    verdicts = VerdictRows(
        "v1",
        (np.arange(num) % 3).astype(np.int8),
        np.full(num, np.inf, np.float32),
        np.full(num, 50, np.int8),
        np.full(num, p50_s, np.float32),
        np.full(num, p90_s, np.float32),
        np.linspace(0.0, 1.0, num, dtype=np.float32),
        np.full(num, by_rule, np.int8),
        np.full(num, Reason.UNSURE if by_rule else Reason.POLICY, np.int8),
        np.zeros(num, np.int8),
        (np.arange(num) % 3).astype(np.int8),
    )
    connection.execute(
        "XADD", KEYS.decisions, entry_id,
        "q", encode(request_of(rows, engine_id, request_id)),
        "a", encode(verdicts_of(verdicts, request_id)),
        "at", START_S,
    )  # fmt: skip
    return rows, verdicts
