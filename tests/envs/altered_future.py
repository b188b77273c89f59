"""A trace like another one up to a moment, and different in everything that is not known then."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rlkv_engine import state as S
from rlkv_engine.decoding import settle
from rlkv_engine.trace import Trace

#: Contexts of altered sessions stay below what a single session may hold, tokens.
MAX_CONTEXT = 4000


@dataclass
class Turn:
    input_tokens: int
    shared_prefix_tokens: int
    output_tokens: int
    tool: int  # -1 on the last turn
    pause_s: float  # NaN on the last turn


def turns_of(trace: Trace, sid: int) -> list[Turn]:
    return [
        Turn(
            int(trace.input_tokens[t]),
            int(trace.shared_prefix_tokens[t]),
            int(trace.output_tokens[t]),
            int(trace.tool[t]),
            float(trace.pause_s[t]),
        )
        for t in range(trace.first_turn[sid], trace.first_turn[sid + 1])
    ]


def with_sessions(trace: Trace, sessions: list[list[Turn]], arrival_s: list[float]) -> Trace:
    turns = [turn for session in sessions for turn in session]
    names = [f"s{sid}" for sid in range(len(sessions))]
    altered = replace(
        trace,
        first_turn=np.cumsum([0, *map(len, sessions)]),
        arrival_s=np.array(arrival_s),
        input_tokens=np.array([t.input_tokens for t in turns]),
        shared_prefix_tokens=np.array([t.shared_prefix_tokens for t in turns]),
        output_tokens=np.array([t.output_tokens for t in turns]),
        tool=np.array([t.tool for t in turns]),
        pause_s=np.array([t.pause_s for t in turns]),
        session_ids=names,
        roots=names,
    )
    altered.validate()
    return altered


def altered_future(trace: Trace, state: S.State, engine: int, rng: np.random.Generator) -> Trace:
    """Draws anew whatever the engine has not seen of ``trace`` at the moment of ``state``.

    Known are: sessions that have arrived, with the prompt of their first turn; turns that have
    ended; of the current turn its prompt and what has been generated; of a pause its tool, its
    beginning, and that it lasts. Anew are: how much is still generated, when a pause ends and
    which tool is called next, what it returns, how many turns follow, and who arrives when.
    """
    settle(state, engine)
    n, now_s = state.n[engine], float(state.f[engine, S.NOW])
    slot_of = {
        int(state.slot[engine, S.SID, s]): s
        for s in range(state.slot.shape[2])
        if state.slot[engine, S.PHASE, s] != S.EMPTY
    }
    num_arrived = int(n[S.NEXT_ARRIVAL])
    sessions: list[list[Turn]] = []
    for sid in range(num_arrived):
        turns = turns_of(trace, sid)
        if sid in slot_of:
            s = slot_of[sid]
            current = int(state.slot[engine, S.TURN, s] - trace.first_turn[sid])
            pausing = state.slot[engine, S.PHASE, s] == S.PAUSED
            elapsed_s = now_s - float(state.real[engine, S.PAUSE_START, s]) if pausing else None
            generated = int(state.slot[engine, S.GENERATED, s])
            turns = _go_on(rng, trace, turns[: current + 1], generated, elapsed_s)
        elif sid >= n[S.NEXT_NEW]:
            turns = _go_on(rng, trace, turns[:1], 0, None)
        sessions.append(turns)
    arrival_s = trace.arrival_s[:num_arrived].tolist()
    if trace.num_concurrent == 0:
        num_new = int(rng.integers(1, 20))
        arrival_s += (now_s + 1e-6 + np.cumsum(rng.exponential(0.5, num_new))).tolist()
    else:
        num_new = trace.num_sessions - num_arrived
        arrival_s += trace.arrival_s[num_arrived:].tolist()
    for _ in range(num_new):
        first = Turn(int(rng.integers(50, 1500)), 0, 1, -1, np.nan)
        sessions.append(_go_on(rng, trace, [first], 0, None))
    return with_sessions(trace, sessions, arrival_s)


def _go_on(
    rng: np.random.Generator,
    trace: Trace,
    turns: list[Turn],
    generated: int,
    elapsed_s: float | None,
) -> list[Turn]:
    # Another ending behind the last of `turns`; elapsed_s of its pause if that has begun.
    last = turns[-1]
    if elapsed_s is None:
        last.output_tokens = generated + int(rng.integers(1, 120))
        last.tool, last.pause_s = int(rng.integers(len(trace.tools))), float(rng.exponential(4.0))
        num_more = int(rng.integers(0, 6))
    else:
        last.pause_s = elapsed_s + 1e-6 + float(rng.exponential(4.0))
        num_more = int(rng.integers(1, 6))
    for _ in range(num_more):
        context = turns[-1].input_tokens + turns[-1].output_tokens
        output_tokens = int(rng.integers(1, 120))
        input_tokens = min(context + int(rng.integers(0, 200)), MAX_CONTEXT)
        shared = min(context, input_tokens) if rng.random() < 0.8 else int(input_tokens * 0.5)
        tool, pause_s = int(rng.integers(len(trace.tools))), float(rng.exponential(4.0))
        turns.append(Turn(input_tokens, shared, output_tokens, tool, pause_s))
    turns[-1].tool, turns[-1].pause_s = -1, np.nan
    return turns
