"""A trace on the real engine: the same sessions as the simulator's, with tokens and a model.

Prompts are random tokens, the output is what the model makes of them, as long as the trace says.
Which tokens does not depend on the policy: a session's are drawn from its own numbers.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.config import EngineConfig
from rlkv_engine.estimates import PauseTable
from rlkv_engine.loop import RULE_POLICY, Policy
from rlkv_engine.paged.arena import arena_for
from rlkv_engine.paged.clock import Clock
from rlkv_engine.paged.context import Context
from rlkv_engine.paged.copies import copy_engine
from rlkv_engine.paged.executor import Executor
from rlkv_engine.planner import MemoryPlanner, PolicyPlanner
from rlkv_engine.profile import Profile
from rlkv_engine.stepped import IterationPlan, SteppedEngine
from rlkv_engine.trace import Trace

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

#: With an empty batch the clock of the wall moves on by so many iterations at most, so that copies
#: are made piece by piece.
_IDLE_ITERATIONS = 4.0


class TracePlayer:
    """Runs a trace on a model, an iteration a call.

    Args:
        loaded: the model.
        profile: costs and sizes the scheduler reckons with.
        trace: sessions; none longer than the model.
        rule: ``rlkv_engine.rule.RULE_SIZE`` numbers.
        table: what is known of pauses.
        policy: answers the decisions; without one the rule does.
        planner: answers them in the place of a policy, see planner.py.
        config: switches of the scheduler.
        lease_s: leases by row of ``table``.
        clock: without one, iterations take what the profile says.
        seed: of the prompts.
        log_rows: rows of log kept of one iteration.

    Raises:
        InputError: a session is longer than the device pool, or there is not so much memory.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        profile: Profile,
        trace: Trace,
        rule: NDArray[np.float64],
        table: PauseTable,
        *,
        policy: Policy = RULE_POLICY,
        planner: MemoryPlanner | None = None,
        config: EngineConfig | None = None,
        lease_s: NDArray[np.float64] | None = None,
        clock: Clock | None = None,
        seed: int = 0,
        log_rows: int = 4096,
    ) -> None:
        self.engine = SteppedEngine(
            profile, trace, rule, table=table, config=config, lease_s=lease_s, log_rows=log_rows
        )
        self._clock = clock
        self._planner = planner or PolicyPlanner(policy)
        self._seed, self._trace = seed, trace
        self._vocab_size = loaded.config.vocab_size
        self._contexts: dict[int, Context] = {}
        self._outputs: dict[int, list[int]] = {}
        self._arena = arena_for(loaded, profile)
        self._copies = copy_engine(self._arena)
        # Not through self: a cycle would keep both tiers until a collector comes by.
        engine, contexts = self.engine, self._contexts
        self.executor = Executor(
            loaded.model,
            self._arena,
            self._copies,
            engine,
            lambda slot: contexts[int(engine.live_state.slot[S.SID, slot])],
            max_tokens=trace.max_context_tokens,
            # What one session computes no other has: prompts are random.
            prefix_caching=False,
        )

    def step(self) -> IterationPlan | None:
        """One iteration; None when every session has finished."""
        engine, clock = self.engine, self._clock
        if clock is not None:
            engine.move_clock(clock.now_s())
        self._planner.plan_memory(engine)
        self._begin_turns()
        self.executor.follow()
        idle_s = math.inf if clock is None else _IDLE_ITERATIONS * engine.profile.iteration_s
        plan = engine.start_iteration(idle_s)
        if plan is None or self._is_over():
            return None
        for emission in self.executor.carry_out(plan):
            self._outputs[int(engine.live_state.slot[S.SID, emission.slot])].append(emission.token)
        took_s = plan.expected_s
        if clock is not None:
            if not plan.has_work:
                clock.wait_until(engine.now_s + plan.expected_s)
            took_s = clock.now_s() - engine.now_s
        engine.end_iteration(plan, took_s)
        for row in engine.log[engine.log[:, 2] == S.LOG_FINISH]:
            del self._contexts[int(row[3])]
        self.executor.follow()
        return plan

    def output_digests(self) -> dict[int, str]:
        """Of each session so far: a digest of all tokens it generated."""
        return {
            sid: hashlib.blake2b(np.array(tokens).tobytes(), digest_size=8).hexdigest()
            for sid, tokens in sorted(self._outputs.items())
        }

    def close(self) -> None:
        """Ends the thread that copies."""
        self._copies.close()

    def _is_over(self) -> bool:
        return bool(self.engine.live_state.n[S.NUM_FINISHED] == self._trace.num_sessions)

    def _begin_turns(self) -> None:
        log = self.engine.log
        for row in log[np.isin(log[:, 2], (S.LOG_RETURN, S.LOG_ADMIT))]:
            sid, returned = int(row[3]), row[2] == S.LOG_RETURN
            if sid not in self._contexts:
                self._contexts[sid] = Context(self.engine.profile.block_size)
                self._outputs[sid] = []
                self._begin_turn(sid, 0)
            elif returned:
                self._begin_turn(sid, self._turn_of(sid))

    def _begin_turn(self, sid: int, turn: int) -> None:
        column = int(self._trace.first_turn[sid]) + turn
        context = self._contexts[sid]
        kept = min(int(self._trace.shared_prefix_tokens[column]), len(context.tokens))
        random = np.random.default_rng((self._seed, sid, turn))
        new = random.integers(self._vocab_size, size=int(self._trace.input_tokens[column]) - kept)
        context.begin_turn(kept, new)

    def _turn_of(self, sid: int) -> int:
        slots = self.engine.live_state.slot
        (slot,) = np.flatnonzero((slots[S.PHASE] != S.EMPTY) & (slots[S.SID] == sid))
        return int(slots[S.TURN, slot] - self._trace.first_turn[sid])
