"""Whatever happens, in whatever order: the books add up, and nobody gets a wrong token.

RLKV_PAGED_EVENTS says how many events there are, 10,000 without it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest

from rlkv_engine import state as S
from rlkv_engine.paged.copies import Copy
from rlkv_engine.paged.engine import PagedEngine
from rlkv_engine.planner import PolicyPlanner
from tests.engine.paged.devices import DEVICES
from tests.engine.paged.small_engine import (
    FailingCopies,
    assert_right_tokens,
    mixed_verbs,
    small_engine,
    tiny_profile,
    use_copies,
)

NUM_EVENTS = int(os.environ.get("RLKV_PAGED_EVENTS", "10000"))
NUM_WORLDS = 4  #: half of them share prefixes


class UnreliableCopies(FailingCopies):
    """Copies that are made at once, in the background, or as late as can be; some fail."""

    def __init__(self, engine: PagedEngine, seed: int) -> None:
        super().__init__(engine, [])
        self._random = np.random.default_rng(seed)
        self._late: list[Copy] = []
        self._early: list[Copy] = []

    def start(self, copies: Sequence[Copy]) -> None:
        self.fails = (self._random.random(len(copies)) < 0.05).tolist()
        when = self._random.integers(3)
        if when == 0:
            self._late = list(copies)
            return
        super().start(copies)
        if when == 1:
            self._early = super().wait()

    def wait(self) -> list[Copy]:
        late, self._late = self._late, []
        early, self._early = self._early, []
        if late:
            super().start(late)
        return early + super().wait()


class World:
    """Sessions that arrive, pause, return and leave at random."""

    def __init__(self, seed: int, device: str) -> None:
        self.random = np.random.default_rng(seed)
        profile = tiny_profile(
            num_device_blocks=int(self.random.integers(16, 40)),
            num_host_blocks=int(self.random.integers(0, 24)),
        )
        self.engine = small_engine(profile=profile, prefix_caching=bool(seed % 2), device=device)
        self.copies = UnreliableCopies(self.engine, seed)
        use_copies(self.engine, self.copies)
        self.longest = 4 * profile.num_device_blocks - 8
        self.running: dict[int, int] = {}  # session: where its output starts
        self.paused: list[int] = []
        self.num_checked = 0

    def arrive(self) -> None:
        length = int(self.random.integers(1, self.longest // 2))
        # Prompts begin alike, so that there is something to share.
        prompt = [*range(min(length, 12)), *self.random.integers(5, size=max(0, length - 12))]
        session = self.engine.add_session(prompt, max_new_tokens=int(self.random.integers(1, 6)))
        self.running[session] = length

    def cancel(self) -> None:
        sessions = [*self.running, *self.paused]
        if sessions:
            session = int(self.random.choice(sessions))
            self.engine.cancel(session)
            self.running.pop(session, None)
            if session in self.paused:
                self.paused.remove(session)

    def come_back(self) -> None:
        if not self.paused:
            return
        session = self.paused.pop(int(self.random.integers(len(self.paused))))
        context = len(self.engine.tokens(session))
        kept = int(self.random.integers(context // 2, context + 1))
        new = self.random.integers(5, size=self.random.integers(1, 20)).tolist()
        if kept + len(new) + 5 > self.longest:
            self.engine.cancel(session)
            return
        self.engine.resume(
            session, new, max_new_tokens=int(self.random.integers(1, 6)), kept_tokens=kept
        )
        self.running[session] = kept + len(new)

    def interrupt(self) -> None:
        for session in list(self.running):
            if len(self.engine.tokens(session)) > self.running[session]:
                self.end_turn(session)
                return

    def end_turn(self, session: int) -> None:
        start = self.running.pop(session)
        assert_right_tokens(self.engine.tokens(session), start)
        self.num_checked += 1
        self.engine.pause(session, str(self.random.choice(["search", "shell", "new"])))
        self.paused.append(session)

    def change_policy(self) -> None:
        bias = self.random.normal(scale=2.0, size=3)
        self.engine._planner = PolicyPlanner(mixed_verbs(bias, int(self.random.integers(100))))

    def step(self) -> None:
        for token in self.engine.step():
            if token.end:
                self.end_turn(token.session)
        idle_s = min(self.engine.idle_s, 0.5)
        self.engine._clock.wait_until(self.engine._clock.now_s() + idle_s)

    def happen(self) -> None:
        num_sessions = len(self.running) + len(self.paused)
        events = [self.step, self.arrive, self.come_back, self.cancel, self.interrupt]
        chances = np.array([0.7, 0.08 if num_sessions < 24 else 0.0, 0.1, 0.02, 0.02])
        if self.random.random() < 0.02:
            self.change_policy()
        self.random.choice(events, p=chances / chances.sum())()  # type: ignore[arg-type]
        self.engine.check_integrity()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(i, marks=pytest.mark.slow) for i in (2, 3))])
def test_books_add_up_after_every_event(seed: int, device: str) -> None:
    world = World(seed, device)
    for _ in range(NUM_EVENTS // NUM_WORLDS):
        world.happen()
    engine, counters = world.engine, world.engine.state.n
    assert world.num_checked > NUM_EVENTS // 100
    assert counters[S.NUM_PREEMPTIONS] > 0
    if engine.profile.num_host_blocks > 8:
        assert world.copies.num_failed > 0 and counters[S.BLOCKS_IN] > 0
    for session in [*world.running, *world.paused]:
        engine.cancel(session)
    engine.step()
    engine.check_integrity()
    assert engine.state.n[S.FREE] == engine.profile.num_device_blocks
    assert engine.state.n[S.HOST_FREE] == engine.profile.num_host_blocks
    assert engine._executor.tables.device_pool.num_free == engine.profile.num_device_blocks
    engine.close()
