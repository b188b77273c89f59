"""The two experiments that InferCept's numbers come from, rebuilt on our scheduler.

``saturated_run`` is ``benchmarks/benchmark_real.py`` of WukLab/InferCept (the numbers of its
notebook), ``window_run`` is ``benchmarks/final_tput_bench_real.py`` (the figures of the paper).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.rules import make_rule
from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.engine import Engine
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import PauseTable, fit_pause_table
from rlkv_engine.loop import RULE_POLICY
from rlkv_engine.profile import Profile
from rlkv_engine.trace import Trace
from rlkv_envs.workloads import make_trace, make_workload
from rlkv_envs.workloads.arrivals import Poisson

#: vLLM 0.2.0 batches whole prompts up to the longest context of the model, 2048 for GPT-J-6B.
WHOLE_PROMPT_TOKENS = 2048
#: Sessions of one kind are picked out of this many times as many of the mixture.
_DRAWS = 16
#: How often a saturated run is looked at for its end, seconds of its clock.
_LOOK_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """One of the published systems: a rule and the engine that it ran on.

    ``forgets_copies``: swapping in gives the host blocks up, so that the next swap-out copies all
    of the context again. Our host tier keeps them, so the price of both directions is put on the
    way in, which every copy takes in the end.
    """

    name: str
    rule: str
    chunked: bool = False
    overlapped: bool = False
    to_tail: bool = False
    forgets_copies: bool = False

    def engine(self, profile: Profile, trace: Trace, table: PauseTable | None = None) -> Engine:
        """The server on a machine, at time 0 of a trace."""
        changes: dict[str, float] = {}
        if not self.chunked:
            changes["max_num_batched_tokens"] = max(WHOLE_PROMPT_TOKENS, profile.max_num_seqs)
        if self.forgets_copies:
            both_s = 1 / profile.swap_out_bytes_per_s + 1 / profile.swap_in_bytes_per_s
            changes |= {"swap_in_bytes_per_s": 1 / both_s, "swap_out_bytes_per_s": 1e18}
        table = table or fit_pause_table(trace)
        config = EngineConfig(
            overlap_swap=self.overlapped,
            chunked_prefill=self.chunked,
            requeue_to_tail=self.to_tail,
            reuse_discarded=False,
            ask_call=False,
        )
        rule = make_rule(self.rule).params(table)
        machine = replace(profile, **changes)  # type: ignore[arg-type]
        return Engine(machine, trace, rule, table=table, config=config, keep_outcome=True)


VLLM = Server("vLLM discard", "discard", to_tail=True)
IMPROVED_DISCARD = Server("ImprovedDiscard", "discard")
CHUNKED_DISCARD = Server("ImprovedDiscard, chunked", "discard", chunked=True)
PRESERVE = Server("preserve", "preserve")
SWAP = Server("naive swap", "swap", forgets_copies=True)
SWAP_WITH_COPIES = Server("naive swap, host keeps its copy", "swap")
INFERCEPT = Server("InferCept", "min-waste-true", chunked=True, overlapped=True)


def sessions_of(
    kind: str, num_sessions: int, *, pause_s: float | None = None, published_calls: bool = False
) -> Trace:
    """Sessions of one augmentation, all there at time 0.

    Args:
        kind: name of the tool that is called first, as in ``InferCept.tools``.
        num_sessions: how many.
        pause_s: every pause lasts this long; None keeps the drawn ones.
        published_calls: virtual environments with the 28.18 calls and the 2185 tokens of Table 1
            (above the 2048 tokens of GPT-J-6B) instead of the 5.35 of the data file.
    """
    options = {"max_context_tokens": 4096} if published_calls else {}
    workload = make_workload("infercept", published_environment=published_calls, **options)
    rng = np.random.default_rng(0)
    bodies = workload.bodies(rng, "test", _DRAWS * num_sessions)
    first_tool = bodies.tool[bodies.first_turn[:-1]]
    chosen = np.flatnonzero(first_tool == workload.tools.index(kind))[:num_sessions]
    if len(chosen) < num_sessions:
        raise InputError(f"only {len(chosen)} of {num_sessions} sessions of {kind} were drawn")
    trace = bodies.select(chosen)
    if pause_s is not None:
        trace = replace(trace, pause_s=np.where(np.isfinite(trace.pause_s), pause_s, np.nan))
    # A microsecond apart, so that their order is defined.
    return trace.with_arrivals(np.arange(num_sessions, dtype=np.float64) * 1e-6)


def saturated_run(
    profile: Profile, server: Server, trace: Trace, num_finished: int
) -> tuple[float, float]:
    """Tokens/s until ``num_finished`` sessions have ended, and the share of time on recompute.

    As there, prompts, generated and returned tokens count, each once, of unfinished sessions too.
    """
    table = fit_pause_table(trace)
    scout = server.engine(profile, trace, table)
    while scout.state.n[S.NUM_FINISHED] < num_finished:
        scout.run(RULE_POLICY, until_s=scout.now_s + _LOOK_EVERY_S)
    end_s = float(np.sort(scout.state.outcome[S.FINISH_S])[num_finished - 1])
    engine = server.engine(profile, trace, table)
    engine.run(RULE_POLICY, until_s=end_s)
    st = engine.state
    finished = np.isfinite(st.outcome[S.FINISH_S])
    active = st.slot[S.PHASE] != S.EMPTY
    seen = np.maximum(st.slot[S.VALID], st.slot[S.COMPUTED])[active].sum()
    seen += _last_context(trace)[finished].sum()
    return float(seen / engine.now_s), float(st.f[S.RECOMPUTE_S] / st.f[S.BUSY_S])


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What ``window_run`` measures."""

    normalized_latency_s: float  #: mean seconds a generated or returned token, pauses excluded
    finished_per_s: float
    recompute_time_ratio: float  #: share of the forward time that computes lost KV again
    stall_ratio: float  #: share of the window in which the engine waits for copies


def window_run(
    profile: Profile, server: Server, rate_per_s: float, *, seed: int, window_s: float
) -> WindowResult:
    """The mixture at Poisson arrivals for a while, measured as the scripts of the paper do.

    Returned tokens count as generated, and sessions that run at the end count as if they ended
    then. Those still in the queue count for nothing.
    """
    num_sessions = int(rate_per_s * window_s * 1.2) + 50
    workload = make_workload("infercept")
    trace = make_trace(
        workload, Poisson(rate_per_s), seed=seed, split="test", num_sessions=num_sessions
    )
    arrival_s = trace.arrival_s.copy()
    arrival_s[: int(rate_per_s) + 1] = 0.0
    trace = trace.with_arrivals(arrival_s)
    engine = server.engine(profile, trace)
    engine.run(RULE_POLICY, until_s=window_s)
    st, now_s = engine.state, engine.now_s
    finish_s = st.outcome[S.FINISH_S]
    finished = np.isfinite(finish_s)
    first_prompt = trace.input_tokens[trace.first_turn[:-1]]
    active_s = finish_s - trace.arrival_s - trace.total_pause_s
    latency = (active_s / (_last_context(trace) - first_prompt))[finished]
    slots = np.flatnonzero(st.slot[S.PHASE] != S.EMPTY)
    sid, turn = st.slot[S.SID, slots], st.slot[S.TURN, slots]
    tokens = trace.input_tokens[turn] + st.slot[S.GENERATED, slots] - first_prompt[sid]
    pausing = np.where(
        st.slot[S.PHASE, slots] == S.PAUSED, now_s - st.real[S.PAUSE_START, slots], 0.0
    )
    running_s = now_s - trace.arrival_s[sid] - st.real[S.PAUSED_S, slots] - pausing
    began = tokens > 0
    latency = np.concatenate([latency, running_s[began] / tokens[began]])
    return WindowResult(
        normalized_latency_s=float(latency.mean()),
        finished_per_s=float(finished.sum() / now_s),
        recompute_time_ratio=float(st.f[S.RECOMPUTE_S] / st.f[S.BUSY_S]),
        stall_ratio=float(st.f[S.STALL_S] / now_s),
    )


def rate_at_latency(
    rates_per_s: NDArray[np.float64], latency_s: NDArray[np.float64], level_s: float
) -> float:
    """The rate at which the latency first reaches a level; NaN where no rate does.

    Logarithms of latencies are interpolated between the rates.
    """
    above = np.flatnonzero(latency_s >= level_s)
    if not above.size or above[0] == 0:
        return float("nan")
    high = int(above[0])
    low_log, high_log = np.log(latency_s[high - 1 : high + 1])
    part = (np.log(level_s) - low_log) / (high_log - low_log)
    return float(rates_per_s[high - 1] + part * (rates_per_s[high] - rates_per_s[high - 1]))


def _last_context(trace: Trace) -> NDArray[np.int64]:
    """Tokens of each session at its end, shape ``[num_sessions]``."""
    last = trace.first_turn[1:] - 1
    return trace.input_tokens[last] + trace.output_tokens[last]
