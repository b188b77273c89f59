"""Small random worlds, and rules that decide by hashing, for the tests of the scheduler."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from math import exp, inf, log, nan
from random import Random

import hypothesis.strategies as st
import numpy as np

from rlkv_engine.estimates import (
    BY_ELAPSED,
    BY_TOOL,
    BY_TRUTH,
    PauseTable,
    fit_pause_table,
    table_remaining_s,
)
from rlkv_engine.profile import Profile
from rlkv_engine.rule import ORDER_ELAPSED, ORDER_IDLENESS, ORDER_REMAINING, ORDER_WEIGHED
from rlkv_engine.trace import Trace
from rlkv_engine.victim_order import NUM_ORDER_TERMS
from tests.engine.reference_session import Kind, Modes, Session, Turn, Verb

#: Values that meet exactly, so that ties happen.
PAUSES_S = [0.25, 0.0, 0.01, 0.05, 0.25, 1.0, 1.0, 3.0, 9.0]
LEASES_S = [inf, inf, inf, 1.0, 0.25, 0.01, 0.0]
#: Of a learned order; powers of two, so that a product rounds nothing.
WEIGHTS = st.sampled_from([0.0, 0.5, -0.5, 1.0, -2.0])
CALL_VERBS = [Verb.PRESERVE, Verb.PRESERVE, Verb.SWAP, Verb.SWAP, Verb.DISCARD, Verb.SWAP_NOW]


@dataclass(frozen=True, slots=True)
class Rule:
    """The part of a rule that the tests do not answer themselves."""

    order: int  # of victims, rule.ORDER_*
    weights: tuple[float, ...]  # of ORDER_WEIGHED
    estimate: int  # of the remaining pause, estimates.BY_*
    forced_resume: Verb
    forced_decode: Verb


@dataclass(frozen=True, slots=True)
class World:
    trace: Trace
    profile: Profile
    modes: Modes
    rule: Rule
    seed: int

    @property
    def table(self) -> PauseTable:
        return fit_pause_table(self.trace)


@dataclass(slots=True)
class Answers:
    """Verbs from (seed, session, turn, how often asked): the same for every engine."""

    seed: int
    num_asked: Counter[tuple[int, int]] = field(default_factory=Counter)
    #: (now_s, decision point, sid, turn, take)
    questions: list[tuple[float, str, int, int, int]] = field(default_factory=list)

    def call(self, now_s: float, sid: int, turn: int, keep: int) -> tuple[Verb, float]:
        random = self._ask(now_s, "CALL", sid, turn, keep)
        return random.choice(CALL_VERBS), random.choice(LEASES_S)

    def revisit(self, now_s: float, kind: Kind, sid: int, turn: int, take: int) -> Verb:
        return Verb(self._ask(now_s, kind.name, sid, turn, take).randrange(3))

    def _ask(self, now_s: float, point: str, sid: int, turn: int, take: int) -> Random:
        self.questions.append((now_s, point, sid, turn, take))
        self.num_asked[sid, turn] += 1
        return Random(f"{self.seed} {sid} {turn} {self.num_asked[sid, turn]}")


@dataclass(slots=True)
class WorldPolicy:
    """Hashed answers for the reference; order, estimates and force as the rule says."""

    world: World
    answers: Answers

    def score(self, session: Session, kind: Kind, now_s: float) -> float:
        elapsed_s = now_s - session.pause_start_s
        if self.world.rule.order == ORDER_ELAPSED:
            return elapsed_s
        if self.world.rule.order == ORDER_IDLENESS:
            life_s = now_s - session.arrival_s
            return (session.paused_s + elapsed_s) / (life_s + 1e-9)
        if self.world.rule.order == ORDER_WEIGHED:
            return self._weighed(session, kind, now_s)
        return self.remaining(session, now_s)

    def _weighed(self, session: Session, kind: Kind, now_s: float) -> float:
        # ORDER_TERMS written out and added up in their order: sessions alike come out equal.
        mean_s = self.world.modes.mean_pause_s
        remaining_s = self.remaining(session, now_s)
        elapsed_s = now_s - session.pause_start_s
        attained_s = now_s - session.arrival_s - session.paused_s - elapsed_s
        num_turns = session.turn_index + 1
        copied = max(0, min(session.keep, session.host_hi) - session.host_lo)
        dirty = session.keep - (copied if session.num_host > 0 else 0)
        terms = [
            log(max(remaining_s / mean_s, 1e-6)),
            1.0 if remaining_s / mean_s < 1.0 else 0.0,
            log(1.0 + elapsed_s / mean_s),
            log(num_turns),
            log(max(attained_s / mean_s, 0.0) + 0.01),
            log(max(session.valid, 1)),
            log(max(session.keep, 1)),
            dirty / max(session.keep, 1),
            log(num_turns) if kind is Kind.NEW else 0.0,
        ]
        total = 0.0
        for weight, term in zip(self.world.rule.weights, terms, strict=True):
            total += weight * term
        return remaining_s * exp(total)

    def remaining(self, session: Session, now_s: float) -> float:
        elapsed_s = now_s - session.pause_start_s
        if self.world.rule.estimate == BY_TRUTH:
            return session.return_at_s - now_s
        if self.world.rule.estimate == BY_ELAPSED:
            return elapsed_s
        return table_remaining_s(self.world.table.residual_s, 0, elapsed_s)

    def call(self, session: Session, now_s: float) -> tuple[Verb, float]:
        return self.answers.call(now_s, session.sid, session.turn_index, session.keep)

    def revisit(self, session: Session, kind: Kind, now_s: float, take: int) -> Verb:
        return self.answers.revisit(now_s, kind, session.sid, session.turn_index, take)

    def forced(self, session: Session, kind: Kind, now_s: float) -> Verb:
        rule = self.world.rule
        return rule.forced_resume if kind is Kind.RESUME else rule.forced_decode


def make_trace(
    sessions: list[list[Turn]], arrival_s: list[float], num_concurrent: int = 0
) -> Trace:
    turns = [turn for session in sessions for turn in session]
    names = [f"s{sid}" for sid in range(len(sessions))]
    trace = Trace(
        name="world",
        tools=("tool",),
        first_turn=np.cumsum([0, *map(len, sessions)]),
        arrival_s=np.array(arrival_s, np.float64),
        input_tokens=np.array([t.input_tokens for t in turns], np.int64),
        shared_prefix_tokens=np.array([t.shared_prefix_tokens for t in turns], np.int64),
        output_tokens=np.array([t.output_tokens for t in turns], np.int64),
        tool=np.array([-1 if t.pause_s != t.pause_s else 0 for t in turns], np.int64),
        pause_s=np.array([t.pause_s for t in turns], np.float64),
        session_ids=names,
        roots=names,
        num_concurrent=num_concurrent,
    )
    trace.validate()
    return trace


@st.composite
def session_turns(draw: st.DrawFn, max_tokens: int) -> list[Turn]:
    """Turns of one session whose context never exceeds ``max_tokens``."""
    turns: list[Turn] = []
    context = 0
    for _ in range(draw(st.sampled_from([4, 3, 2, 6, 1]))):
        if context + 2 > max_tokens or draw(st.integers(0, 7)) == 7:
            # The agent forgot part of its context.
            context = draw(st.integers(0, min(context, max_tokens - 2)))
        room = max_tokens - context
        num_new = draw(st.integers(1 if context == 0 else 0, max(1, room // 2)))
        num_output = draw(st.integers(1, max(1, min(room - num_new, 14))))
        shared = draw(st.integers(0, context)) if draw(st.integers(0, 5)) == 5 else context
        turns.append(Turn(context + num_new, shared, num_output, draw(st.sampled_from(PAUSES_S))))
        context += num_new + num_output
    turns[-1] = replace(turns[-1], pause_s=nan)
    return turns


@st.composite
def worlds(draw: st.DrawFn) -> World:
    block_size = draw(st.integers(1, 4))
    num_device_blocks = draw(st.integers(8, 60))
    max_num_seqs = draw(st.sampled_from([8, 1, 2, 3, 16]))
    bytes_per_s = [20.0, 200.0, 3e3, 1e6]
    profile = Profile(
        name="world",
        description="a small world",
        block_size=block_size,
        kv_bytes_per_token=draw(st.sampled_from([1, 3])),
        num_device_blocks=num_device_blocks,
        num_host_blocks=draw(st.one_of(st.integers(1, 80), st.integers(0, 20), st.just(0))),
        iteration_s=draw(st.sampled_from([0.01, 0.02, 1 / 3])),
        prefill_token_s=draw(st.sampled_from([1e-4, 0.003])),
        prefill_token_context_s=draw(st.sampled_from([0.0, 1e-5])),
        decode_session_s=draw(st.sampled_from([0.0, 1e-3])),
        kv_token_s=draw(st.sampled_from([0.0, 1e-5])),
        swap_out_bytes_per_s=draw(st.sampled_from(bytes_per_s)),
        swap_in_bytes_per_s=draw(st.sampled_from(bytes_per_s)),
        swap_latency_s=draw(st.sampled_from([0.0, 0.005, 0.1])),
        prefill_iteration_s=draw(st.sampled_from([0.0, 0.004])),
        wake_s=draw(st.sampled_from([0.0, 0.006])),
        copy_iteration_s=draw(st.sampled_from([0.0, 0.002])),
        copy_block_s=draw(st.sampled_from([0.0, 0.003])),
        # No multiple of what a block takes: credits that are whole but for rounding would differ.
        copy_only_iteration_s=draw(st.sampled_from([0.0, 0.0071234])),
        shared_link=draw(st.booleans()),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(max_num_seqs, draw(st.sampled_from([4, 16, 64, 512]))),
    )
    modes = Modes(
        overlap_swap=draw(st.integers(0, 3)) > 0,
        chunked_prefill=draw(st.integers(0, 3)) > 0,
        requeue_to_tail=draw(st.integers(0, 3)) == 0,
        reuse_discarded=draw(st.integers(0, 3)) > 0,
        host_victims=draw(st.integers(0, 3)) > 0,
        slack_ratio=draw(st.sampled_from([0.0, 0.012, 0.1])),
    )
    takers = st.sampled_from([Verb.SWAP, Verb.DISCARD])
    rule = Rule(
        order=draw(
            st.sampled_from([ORDER_REMAINING, ORDER_ELAPSED, ORDER_IDLENESS, ORDER_WEIGHED])
        ),
        weights=tuple(draw(WEIGHTS) for _ in range(NUM_ORDER_TERMS)),
        estimate=draw(st.sampled_from([BY_TOOL, BY_ELAPSED, BY_TRUTH])),
        forced_resume=draw(takers),
        forced_decode=draw(takers),
    )
    # Several fit; now and then one fills the pool.
    device_tokens = block_size * num_device_blocks
    sizes = st.sampled_from([device_tokens // 2, device_tokens // 3, device_tokens])
    num_sessions = draw(st.one_of(st.integers(5, 12), st.integers(2, 5)))
    sessions = [draw(session_turns(draw(sizes))) for _ in range(num_sessions)]
    num_concurrent = draw(st.sampled_from([0, 0, 1, 3]))
    # In a closed loop the first ones arrive before any of them can have ended.
    closed_gaps_s = [0.0, 0.0, profile.iteration_s / 4]
    gaps_s = st.sampled_from(closed_gaps_s if num_concurrent else [0.0, 0.01, 0.05, 0.4, 2.0])
    arrival_s = np.cumsum([draw(gaps_s) for _ in sessions]).tolist()
    trace = make_trace(sessions, arrival_s, num_concurrent)
    modes = replace(modes, mean_pause_s=fit_pause_table(trace).mean_pause_s)
    return World(trace, profile, modes, rule, draw(st.integers(0, 2**32)))
