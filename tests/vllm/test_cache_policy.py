"""The policy under vLLM's own manager of its host tier, which runs without a GPU."""

from __future__ import annotations

import random
from typing import Any

import pytest
from vllm.v1.kv_offload.base import OffloadKey, ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager
from vllm.v1.kv_offload.cpu.policies.factory import CachePolicyFactory

from rlkv_service.adapters.vllm.cache_policy import RlkvCachePolicy

MODULE = "rlkv_service.adapters.vllm.cache_policy"


class Tier:
    """A manager with the policy, and a clock that a test turns."""

    def __init__(self, num_chunks: int) -> None:
        self.manager = CPUOffloadingManager(
            num_chunks=num_chunks,
            cache_policy="RlkvCachePolicy",
            cache_policy_module_path=MODULE,
        )
        self.now_s = 0.0
        self.policy = self.manager._policy
        assert isinstance(self.policy, RlkvCachePolicy)
        self.policy._clock = lambda: self.now_s
        self.num_requests = 0

    def turn(self, keys: list[OffloadKey], hint: dict[str, Any] | None = None) -> bool:
        """A request that loads what is there and stores the rest; whether it was stored."""
        self.num_requests += 1
        context = ReqContext(
            req_id=f"r{self.num_requests}",
            kv_transfer_params=None if hint is None else {"rlkv": hint},
        )
        for i, key in enumerate(keys):
            context.set_offload_key_position(key, 16 * (i + 1))
        self.manager.on_new_request(context)
        found = []
        for key in keys:
            if self.policy.get(key) is None:
                break
            found.append(key)
        if found:
            self.manager.prepare_load(found, context)
            self.manager.complete_load(found, context)
        output = self.manager.prepare_store(keys, context)
        if output is not None:
            self.manager.complete_store(output.keys_to_store, context)
        self.manager.on_request_finished(context)
        return output is not None

    def num_kept(self, keys: list[OffloadKey]) -> int:
        return sum(self.policy.get(key) is not None for key in keys)


def keys_of(session: int, num: int) -> list[OffloadKey]:
    return [make_offload_key(f"{session}-{i}".encode(), 0) for i in range(num)]


def test_it_is_found_by_its_module() -> None:
    assert CachePolicyFactory.get_cache_policy_cls("RlkvCachePolicy", MODULE) is RlkvCachePolicy


def test_who_is_back_last_goes_first_from_its_end_on() -> None:
    tier = Tier(12)
    tier.turn(keys_of(1, 6), {"session": "slow", "tool": "human"})
    tier.now_s += 1.0
    for _ in range(2):  # a tool that takes a second
        tier.turn(keys_of(2, 6), {"session": "quick", "tool": "search"})
        tier.now_s += 1.0
    tier.turn(keys_of(2, 6), {"session": "quick", "tool": "search"})
    assert tier.turn(keys_of(3, 4), {"session": "new", "tool": "search"})
    assert tier.num_kept(keys_of(2, 6)) == 6
    assert tier.num_kept(keys_of(1, 6)) == 2 == tier.num_kept(keys_of(1, 2))


@pytest.mark.parametrize("hint", [{"ends": True}, {"verb": "discard"}])
def test_who_never_comes_back_goes_before_all_others(hint: dict[str, Any]) -> None:
    tier = Tier(8)
    tier.turn(keys_of(1, 4), {"session": "slow", "tool": "human"})
    tier.now_s += 100.0
    tier.turn(keys_of(2, 4), {"session": "over", **hint})
    tier.turn(keys_of(3, 4), {"session": "new"})
    assert tier.num_kept(keys_of(1, 4)) == 4 and tier.num_kept(keys_of(2, 4)) == 0


def test_sessions_without_names_are_known_by_their_chunks() -> None:
    tier = Tier(8)
    tier.turn(keys_of(1, 4), {"tool": "search"})
    tier.now_s += 2.0
    tier.turn(keys_of(1, 5), {"tool": "search"})
    assert tier.policy._means.mean_s == 2.0


def test_bad_hints_are_no_hints() -> None:
    assert Tier(8).turn(keys_of(1, 4), {"verb": "keep"})


def test_all_or_nothing_is_evicted() -> None:
    tier = Tier(4)
    tier.turn(keys_of(1, 4))
    assert tier.policy.evict(5, set()) is None
    assert tier.policy.evict(3, set(keys_of(1, 2))) is None
    assert tier.num_kept(keys_of(1, 4)) == 4
    gone = tier.policy.evict(2, set(keys_of(1, 2)))
    assert gone is not None and {key for key, _ in gone} == set(keys_of(1, 4)[2:])


def test_the_managers_books_add_up() -> None:
    rng = random.Random(0)
    tier = Tier(30)
    for _ in range(2000):
        tier.now_s += rng.random()
        session = rng.randrange(12)
        hint = {"session": f"s{session}", "tool": rng.choice("ab")} if session % 3 else None
        tier.turn(keys_of(session, rng.randrange(1, 14)), hint)
        manager, policy = tier.manager, tier.policy
        assert isinstance(policy, RlkvCachePolicy)
        assert len(policy._chunks) == len(policy._order) <= 30
        assert manager._num_evictable_cache_chunks == len(policy._evictable)
    tier.policy.clear()
    assert not policy._chunks and not policy._evictable
