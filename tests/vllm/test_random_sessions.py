"""A thousand requests of sessions that go on, end and are aborted, under random verdicts."""

from __future__ import annotations

import random
from typing import Any

from vllm.v1.request import RequestStatus

from tests.vllm.engine import NUM_BLOCKS, TestEngine, check_pool, tokens

NUM_REQUESTS = 1000
VERBS = ("preserve", "swap", "discard")


def test_the_pool_is_whole(engine: TestEngine) -> None:
    rng = random.Random(0)
    systems = [tokens(90 + i, 64 + 40 * i) for i in range(3)]
    said: dict[str, list[int]] = {}
    live: dict[str, str] = {}  # session by request
    prompts: dict[str, list[int]] = {}
    before, num_added, num_aborted = engine.counts, 0, 0
    while num_added < NUM_REQUESTS or live:
        for request_id in [r for r in live if r in engine.outputs]:
            said[live.pop(request_id)] = prompts.pop(request_id) + engine.outputs[request_id]
        if num_added < NUM_REQUESTS and len(live) < 8:
            for _ in range(rng.randrange(1, 4)):
                num_added += _add(engine, rng, systems, said, live, prompts)
        if live and rng.random() < 0.03:
            request_id = rng.choice(list(live))
            engine.engine.abort_request([request_id], internal=False)
            del live[request_id], prompts[request_id]
            num_aborted += 1
        engine.step()
        check_pool(engine.pool)
        _check_references(engine)
    engine.run()
    counts = {k: n - before.get(k, 0) for k, n in engine.counts.items()}
    assert num_aborted > 5 and counts["aborted"] >= num_aborted
    for name in ("reused_device_tokens", "reused_host_tokens", "discarded_blocks", "expired"):
        assert counts[name] > 0, f"no {name}: the test says little"
    assert counts["released_blocks"] > 0 and engine.connector.why_off == ""
    engine.forget_everything()
    assert engine.num_free == NUM_BLOCKS - 1


def _add(
    engine: TestEngine,
    rng: random.Random,
    systems: list[list[int]],
    said: dict[str, list[int]],
    live: dict[str, str],
    prompts: dict[str, list[int]],
) -> int:
    paused = [name for name in said if name not in live.values()]
    if paused and rng.random() < 0.6:
        name = rng.choice(paused)
        prompt = said[name] + tokens(rng.randrange(10**6), rng.randrange(1, 120))
    else:
        name = f"s{rng.randrange(10**6)}"
        prompt = rng.choice(systems) + tokens(rng.randrange(10**6), rng.randrange(1, 400))
    if len(prompt) > 1500 or rng.random() < 0.05:
        said.pop(name, None)
        prompt = prompt[:1500]
    hint: dict[str, Any] = {"verb": rng.choice(VERBS), "lease_s": rng.choice([0.0, 0.05, 600.0])}
    if rng.random() < 0.1:
        hint = {"ends": True}
    named = rng.random() < 0.7
    request_id = engine.add(
        prompt, rng.randrange(1, 12), session=name if named else None, hint=hint
    )
    live[request_id], prompts[request_id] = name, prompt
    return 1


def _check_references(engine: TestEngine) -> None:
    """Each reference to a block is a request's, a lease's or a copy's."""
    state = engine.keeper.state
    own = [0] * engine.pool.num_gpu_blocks
    for request_id in engine.scheduler.requests:
        for block_id in engine.scheduler.kv_cache_manager.get_block_ids(request_id)[0]:
            own[block_id] += 1
    for holds in (state.holds, state.tier._sources):
        for name in holds.owners:
            for block_id in holds.of(name):
                own[block_id] += 1
    for block in engine.pool.blocks:
        assert block.is_null or block.ref_cnt == own[block.block_id], block
    state.tier.index.check_integrity()


def test_aborted_is_not_a_normal_end() -> None:
    from rlkv_service.adapters.vllm.support import NORMAL_ENDS

    assert RequestStatus.FINISHED_ABORTED not in NORMAL_ENDS and len(NORMAL_ENDS) == 3
