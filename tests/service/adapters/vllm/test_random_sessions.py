from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkv_service.columns import DecisionRows
from rlkv_service.schema import Verb
from tests.service.adapters.vllm.fake_engine import FakeEngine, FakeRequest
from tests.service.adapters.vllm.scripted_client import ScriptedClient

POLICIES = ("rule", "preserve", "swap", "discard", "ttl", "sidecar")
HINTS = (
    None,
    {"verb": "preserve", "lease_s": 0.5},
    {"verb": "swap"},
    {"verb": "discard"},
    {"ends": True},
    {"tool": "search"},
    {"lease_s": 3},
)


class Crowd:
    """Sessions with and without names that go on, end, are aborted, and share beginnings."""

    def __init__(self, seed: int, policy: str, num_blocks: int, num_host_blocks: int) -> None:
        rng = self.rng = random.Random(seed)

        def verb_of(rows: DecisionRows, i: int) -> Verb:
            return Verb(rng.randrange(3))

        self.client = ScriptedClient(verb_of) if policy == "sidecar" else None
        self.engine = FakeEngine(
            num_blocks, num_host_blocks, self.client, policy=policy, max_preserved_share=0.8
        )
        self.systems = [[7 * k + i for i in range(rng.randrange(2, 14))] for k in range(2)]
        #: What a session has said so far, by its name or a number.
        self.said: dict[str | int, list[int]] = {}
        self.live: dict[str | int, FakeRequest] = {}

    def act(self) -> None:
        rng, engine = self.rng, self.engine
        for key, request in list(self.live.items()):
            if request not in engine.running and request not in engine.waiting:
                self.said[key] = list(request.tokens)
                del self.live[key]
        kind = rng.random()
        if kind < 0.35 and len(self.live) < 6:
            self._begin()
        elif kind < 0.40 and self.live:
            engine.abort(rng.choice(list(self.live.values())))
        elif kind < 0.45:
            engine.now_s += rng.choice([0.1, 1.0, 30.0])
        elif kind < 0.50:
            engine.failing = 1
        elif kind < 0.60 and self.client is not None:
            self.client.answer(rng.randrange(9))
        elif kind < 0.61:
            self._reset()
        engine.step()
        engine.check()

    def _begin(self) -> None:
        rng = self.rng
        free = [key for key in self.said if key not in self.live]
        key: str | int
        if free and rng.random() < 0.6:
            key = rng.choice(free)
            tokens = self.said[key] + [rng.randrange(50) for _ in range(rng.randrange(1, 9))]
        else:
            key = f"s{rng.randrange(5)}" if rng.random() < 0.5 else 1000 + len(self.said)
            if key in self.live:
                return
            tokens = rng.choice(self.systems) + [
                rng.randrange(50) for _ in range(rng.randrange(1, 20))
            ]
        if len(tokens) > 3 * self.engine.pool.num_blocks:
            tokens = tokens[:10]
        session = key if isinstance(key, str) else None
        self.live[key] = self.engine.add(
            tokens, rng.randrange(1, 12), session=session, hint=rng.choice(HINTS)
        )

    def _reset(self) -> None:
        engine = self.engine
        if not engine.running and not engine.keeper.has_work:
            engine.keeper.before_reset()
            assert engine.pool.num_free == engine.pool.num_blocks
            engine.pool.drop_hashes(range(engine.pool.num_blocks))
            engine.keeper.after_reset()

    def go_home(self) -> None:
        self.engine.run()
        self.engine.check()
        self.engine.keeper.abandon()
        assert self.engine.pool.num_free == self.engine.pool.num_blocks


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(24, 60),
    num_host_blocks=st.sampled_from([2, 10, 100]),
)
def test_whatever_happens_the_pool_is_whole(
    policy: str, seed: int, num_blocks: int, num_host_blocks: int
) -> None:
    crowd = Crowd(seed, policy, num_blocks, num_host_blocks)
    for _ in range(60):
        crowd.act()
    crowd.go_home()


def test_a_long_time() -> None:
    crowd = Crowd(1, "sidecar", 40, 60)
    for _ in range(1500):
        crowd.act()
    counts = crowd.engine.keeper.counts()
    # All of it has happened, or the test says little.
    assert counts["reused_device_tokens"] and counts["reused_host_tokens"]
    assert counts["discarded_blocks"] and counts["released_blocks"] and counts["aborted"]
    assert counts["failed_loads"] and counts["stale_answers"] and counts["host_evicted_blocks"]
    assert counts["revisits_answered"] and counts["asked_revisits"]
    crowd.go_home()
