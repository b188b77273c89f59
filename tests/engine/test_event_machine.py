"""Any sequence of events keeps the books: a hypothesis state machine, whose failures shrink.

test_integrity.py goes through more events; here hypothesis chooses them, one by one.
"""

from __future__ import annotations

from math import inf
from random import Random

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rlkv_engine import state as S
from rlkv_engine.engine import Engine
from rlkv_engine.loop import RULE_POLICY
from tests.engine.test_integrity import arrays, assert_ended_well, assert_same, random_engine


class Events(RuleBasedStateMachine):
    """Time passes, decisions open and are answered in any way, engines are forked."""

    engine: Engine

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.engine = random_engine(Random(seed))

    def asks(self) -> bool:
        return bool(self.engine.state.n[S.DECISION])

    @rule(duration_s=st.sampled_from([0.0, 0.01, 0.1, 0.5, 2.0, 20.0]))
    def let_time_pass(self, duration_s: float) -> None:
        before_s = self.engine.now_s
        self.engine.next_decision(before_s + duration_s)
        assert self.engine.now_s >= before_s

    @precondition(lambda self: self.asks())
    @rule(
        verb=st.sampled_from([S.PRESERVE, S.SWAP, S.DISCARD]),
        lease_s=st.sampled_from([inf, 0.0, 0.05, 1.0]),
    )
    def answer(self, verb: int, lease_s: float) -> None:
        self.engine.answer(int(verb), lease_s)

    @rule(duration_s=st.sampled_from([0.1, 5.0]))
    def fork(self, duration_s: float) -> None:
        before = arrays(self.engine)
        other = self.engine.fork()
        if not self.asks():
            other.run(RULE_POLICY, other.now_s + duration_s)
            other.check_integrity()
        assert_same(before, arrays(self.engine), "the fork wrote to its origin")

    @invariant()
    def books_add_up(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check_integrity()

    def teardown(self) -> None:
        # However it was left, with nobody in the way every session finishes.
        if hasattr(self, "engine"):
            while self.engine.next_decision() is not None:
                self.engine.answer(int(S.DISCARD))
            assert_ended_well(self.engine)


Events.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestEvents = Events.TestCase
