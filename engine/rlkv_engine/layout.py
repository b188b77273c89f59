"""Building, growing and copying a ``State``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import PauseTable
from rlkv_engine.histogram import ROW
from rlkv_engine.latency import NUM_LATENCIES
from rlkv_engine.profile import Profile
from rlkv_engine.rule import RULE_SIZE, SLACK_RATIO
from rlkv_engine.trace import Trace


def check_fits(profile: Profile, trace: Trace) -> None:
    """Raises ``InputError`` if a session of the trace can never fit the device pool."""
    if trace.max_context_tokens > profile.device_tokens:
        turn = int(np.argmax(trace.input_tokens + trace.output_tokens))
        session = int(np.searchsorted(trace.first_turn, turn, side="right")) - 1
        raise InputError(
            f"session {trace.session_ids[session]!r} turn {turn - trace.first_turn[session]} needs"
            f" {trace.max_context_tokens} tokens of KV, the device pool of {profile.name} holds"
            f" {profile.device_tokens}",
            path=trace.name,
        )


def check_closed_loop(profile: Profile, trace: Trace) -> None:
    """Raises ``InputError`` if a session could end before the first ones have all arrived.

    The next session arrives when one ends, in the order of the trace. No session ends before one
    iteration for each of its tokens, and its pauses, have passed.
    """
    num_first = trace.num_concurrent
    if not 0 < num_first < trace.num_sessions:
        return
    first_turn = trace.first_turn[: num_first + 1]
    pause_s = np.nan_to_num(trace.pause_s[: first_turn[-1]])
    turns_s = trace.output_tokens[: first_turn[-1]] * profile.iteration_s + pause_s
    end_s = trace.arrival_s[:num_first] + np.add.reduceat(turns_s, first_turn[:-1])
    soonest, last = int(np.argmin(end_s)), num_first - 1
    if trace.arrival_s[last] > end_s[soonest]:
        raise InputError(
            f"session {trace.session_ids[last]!r} arrives at {trace.arrival_s[last]:g} s, when"
            f" {trace.session_ids[soonest]!r} may have ended (from {end_s[soonest]:g} s on): a"
            f" closed loop begins with all of its first {num_first} sessions",
            path=trace.name,
        )


def build_state(
    profile: Profile,
    traces: Sequence[Trace],
    table: PauseTable,
    rule: NDArray[np.float64],
    config: EngineConfig,
    *,
    num_engines: int,
    num_slots: int,
    lease_s: NDArray[np.float64] | None = None,
    log_rows: int = 0,
    keep_latencies: bool = True,
    keep_outcome: bool = False,
) -> S.State:
    """A stack of engines over a bank of traces, each at time 0 on the first trace of the bank.

    ``rule`` is a vector of ``rule.RULE_SIZE`` numbers; ``lease_s`` the leases by row of ``table``.
    """
    for trace in traces:
        check_fits(profile, trace)
        check_closed_loop(profile, trace)
    if profile.max_num_seqs > profile.max_num_batched_tokens:
        raise InputError(
            f"max_num_seqs {profile.max_num_seqs} is above max_num_batched_tokens"
            f" {profile.max_num_batched_tokens}",
            path=f"profile {profile.name}",
        )
    if rule.shape != (RULE_SIZE,):
        raise ValueError(f"a rule has {RULE_SIZE} numbers, got shape {rule.shape}")
    num_sessions = max(trace.num_sessions for trace in traces) if keep_outcome else 0
    # In a closed loop no more are ever there; its ring of times needs the room.
    num_slots = max(num_slots, profile.block_size, *map(_num_concurrent, traces))
    leases = np.full(len(table.mean_s), math.inf) if lease_s is None else lease_s
    tools = tuple(dict.fromkeys(tool for trace in traces for tool in trace.tools))
    bank = _bank(traces, tools)
    if table.classes is None:
        rows = table.rows_for(tools)
    else:
        # What the loop reads as a turn's tool is a row of the table, here a predicted class.
        rows = np.arange(len(table.mean_s))
        turns = np.concatenate([table.turn_rows(trace) for trace in traces])
        bank["turns"] = np.concatenate([bank["turns"][: S.TOOL], turns[np.newaxis]])
    floats = np.zeros(S.NUM_FLOATS)
    _set_costs(floats, profile, table.mean_pause_s)
    floats[S.RULE : S.RULE + RULE_SIZE] = rule
    counters = np.zeros(S.NUM_COUNTERS, np.int64)
    _set_config(counters, profile, config)
    slack_ratio = rule[SLACK_RATIO] if config.slack_ratio is None else config.slack_ratio
    counters[S.SLACK] = math.ceil(slack_ratio * profile.num_device_blocks)
    state = S.State(
        slot=np.zeros((num_engines, S.SLOT_ROWS, num_slots), np.int64),
        real=np.zeros((num_engines, S.REAL_ROWS, num_slots)),
        n=np.tile(counters, (num_engines, 1)),
        f=np.tile(floats, (num_engines, 1)),
        outcome=np.zeros((num_engines, 2, num_sessions)),
        latency=np.zeros((num_engines, NUM_LATENCIES if keep_latencies else 0, ROW)),
        log=np.zeros((num_engines, log_rows, 5)),
        residual_s=np.ascontiguousarray(table.residual_s[rows]),
        lease_s=np.ascontiguousarray(leases[rows], np.float64),
        **bank,
    )
    for engine in range(num_engines):
        reset_engine(state, engine, 0, traces[0])
    return state


def reset_engine(state: S.State, engine: int, first_session: int, trace: Trace) -> None:
    """Put one engine of a stack to time 0 of a trace; ``first_session``: its place in the bank."""
    num_slots = state.slot.shape[2]
    state.slot[engine] = 0
    state.real[engine] = 0
    state.slot[engine, S.FREE_SLOTS] = np.arange(num_slots)[::-1]
    n, f = state.n[engine], state.f[engine]
    n[: S.FIRST_SESSION] = 0
    f[: S.ITERATION_S] = 0
    n[S.FIRST_SESSION], n[S.NUM_SESSIONS] = first_session, trace.num_sessions
    n[S.NUM_CONCURRENT] = _num_concurrent(trace)
    n[S.NUM_FREE_SLOTS] = num_slots
    n[S.FREE], n[S.HOST_FREE] = n[S.NUM_DEVICE], n[S.NUM_HOST]
    n[[S.IN_IDLE, S.OUT_IDLE, S.ITERATION]] = 1
    n[[S.BLOCKED_NEW, S.BLOCKED_RESUME, S.BLOCKED_GROW]] = -1
    n[S.RECLAIM_FIRST : S.RECLAIM_FIRST + 2 * S.NUM_QUEUES] = S.NOBODY
    f[[S.NEXT_LEASE, S.RETRY_AT]] = math.inf
    state.outcome[engine] = np.nan
    state.latency[engine] = 0


def grow_slots(state: S.State) -> S.State:
    """The same engines with twice as many slots."""
    old = state.slot.shape[2]
    slot = np.concatenate([state.slot, np.zeros_like(state.slot)], axis=2)
    real = np.concatenate([state.real, np.zeros_like(state.real)], axis=2)
    for engine in range(slot.shape[0]):
        free = int(state.n[engine, S.NUM_FREE_SLOTS])
        slot[engine, S.FREE_SLOTS, free : free + old] = np.arange(2 * old - 1, old - 1, -1)
        state.n[engine, S.NUM_FREE_SLOTS] += old
    return state._replace(slot=slot, real=real)


def copy_state(state: S.State) -> S.State:
    """An independent copy; what no engine ever writes (traces, tables) is shared."""
    return S.map_fields(state, lambda name, array: array if name in S.SHARED else array.copy())


def _num_concurrent(trace: Trace) -> int:
    return min(trace.num_concurrent, trace.num_sessions)


def _bank(traces: Sequence[Trace], tools: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    # One trace is worked on where it is; several are copied behind each other, with one index of
    # sessions, of turns and of tools over the whole bank.
    if len(traces) == 1:
        (trace,) = traces
        return {
            name: getattr(trace, name) for name in ("first_turn", "sessions", "turns", "pause_s")
        }
    ends = np.cumsum([0] + [trace.num_turns for trace in traces])
    turns = np.concatenate([trace.turns for trace in traces], axis=1)
    for trace, end in zip(traces, ends, strict=False):
        index = np.array([*map(tools.index, trace.tools), -1])
        turns[S.TOOL, end : end + trace.num_turns] = index[trace.tool]
    first_turn = [trace.first_turn[:-1] + base for trace, base in zip(traces, ends, strict=False)]
    return {
        "first_turn": np.concatenate([*first_turn, ends[-1:]]),
        "sessions": np.concatenate([trace.sessions for trace in traces], axis=1),
        "turns": turns,
        "pause_s": np.concatenate([trace.pause_s for trace in traces]),
    }


def _set_config(n: NDArray[np.int64], profile: Profile, config: EngineConfig) -> None:
    n[S.BLOCK_SIZE] = profile.block_size
    n[S.NUM_DEVICE] = profile.num_device_blocks
    n[S.NUM_HOST] = profile.num_host_blocks
    n[S.MAX_SEQS] = profile.max_num_seqs
    n[S.MAX_BATCHED] = profile.max_num_batched_tokens
    n[S.SHARED_LINK] = profile.shared_link
    n[S.OVERLAP_SWAP] = config.overlap_swap
    n[S.CHUNKED_PREFILL] = config.chunked_prefill
    n[S.REQUEUE_TO_TAIL] = config.requeue_to_tail
    n[S.REUSE_DISCARDED] = config.reuse_discarded
    n[S.HOST_VICTIMS] = config.host_victims
    n[S.ASK_CALL] = config.ask_call


def _set_costs(f: NDArray[np.float64], profile: Profile, mean_pause_s: float) -> None:
    f[S.ITERATION_S] = profile.iteration_s
    f[S.PREFILL_TOKEN_S] = profile.prefill_token_s
    f[S.PREFILL_TOKEN_CONTEXT_S] = profile.prefill_token_context_s
    f[S.DECODE_SESSION_S] = profile.decode_session_s
    f[S.KV_TOKEN_S] = profile.kv_token_s
    f[S.OUT_BLOCK_S] = profile.swap_out_block_s
    f[S.IN_BLOCK_S] = profile.swap_in_block_s
    f[S.LATENCY_S] = profile.swap_latency_s
    f[S.PREFILL_ITERATION_S] = profile.prefill_iteration_s
    f[S.WAKE_S] = profile.wake_s
    f[S.COPY_ITERATION_S] = profile.copy_iteration_s
    f[S.COPY_BLOCK_S] = profile.copy_block_s
    f[S.COPY_ONLY_ITERATION_S] = profile.copy_only_iteration_s or profile.iteration_s
    f[S.MEAN_PAUSE_S] = mean_pause_s
