"""vLLM in this process, with a pool of about 100 blocks, and what tests look at in it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.v1.core.block_pool import BlockPool

from rlkv_service.adapters.vllm.connector import RlkvConnector
from rlkv_service.adapters.vllm.keeper import Keeper

BLOCK = 32
NUM_BLOCKS = 100  #: with the null block


class TestEngine:
    """One engine; requests are token ids.

    Args:
        model: folder of the model.
        config: ``kv_connector_extra_config``; None: no connector.
        options: of ``LLM``.
    """

    __test__ = False

    def __init__(
        self, model: Path, config: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        if config is not None:
            options["kv_transfer_config"] = {
                "kv_connector": "RlkvConnector",
                "kv_connector_module_path": "rlkv_service.adapters.vllm.connector",
                "kv_role": "kv_both",
                "kv_connector_extra_config": dict(config),
            }
        self.llm = LLM(
            str(model),
            skip_tokenizer_init=True,
            dtype="float32",
            enforce_eager=True,
            block_size=BLOCK,
            enable_prefix_caching=True,
            **{
                "num_gpu_blocks_override": NUM_BLOCKS,
                "max_model_len": 3072,
                "max_num_batched_tokens": 4096,
                "max_num_seqs": 16,
                **options,
            },
        )
        self.engine = self.llm.llm_engine
        self.core = self.engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.num_added = 0
        self.outputs: dict[str, list[int]] = {}
        self.cached: dict[str, int] = {}

    def close(self) -> None:
        self.core.shutdown()

    @property
    def pool(self) -> BlockPool:
        return self.scheduler.kv_cache_manager.block_pool

    @property
    def connector(self) -> RlkvConnector:
        connector = self.scheduler.connector
        assert isinstance(connector, RlkvConnector)
        return connector

    @property
    def worker_connector(self) -> RlkvConnector:
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        connector = get_kv_transfer_group()
        assert isinstance(connector, RlkvConnector)
        return connector

    @property
    def keeper(self) -> Keeper:
        keeper = self.connector.keeper
        assert keeper is not None, self.connector.why_off
        return keeper

    @property
    def counts(self) -> dict[str, int]:
        return self.keeper.counts()

    @property
    def num_free(self) -> int:
        return int(self.pool.get_num_free_blocks())

    def add(
        self,
        prompt: Sequence[int],
        max_tokens: int = 4,
        *,
        session: str | None = None,
        hint: Mapping[str, Any] | None = None,
    ) -> str:
        """A request joins; returns its id."""
        self.num_added += 1
        request_id = f"r{self.num_added}"
        params = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False
        )
        if hint is not None:
            params.extra_args = {"kv_transfer_params": {"rlkv": dict(hint)}}
        self.engine.add_request(
            request_id,
            TokensPrompt(prompt_token_ids=list(prompt)),
            params,
            session_id=session,
        )
        return request_id

    def step(self) -> None:
        for output in self.engine.step():
            if output.finished:
                self.outputs[output.request_id] = list(output.outputs[0].token_ids)
                self.cached[output.request_id] = output.num_cached_tokens or 0

    def run(self, most: int = 2000) -> int:
        """Until nothing is left to do; returns the number of steps."""
        steps = 0
        while self.engine.has_unfinished_requests():
            self.step()
            steps += 1
            assert steps < most, "requests that never end"
        self.settle()
        return steps

    def settle(self, most: int = 50) -> None:
        """An idle engine goes on while it has work, as in the server's loop."""
        for _ in range(most):
            if not self.scheduler.has_requests():
                return
            self.core.step()
        raise AssertionError("an idle engine that never rests")

    def ask(
        self,
        prompt: Sequence[int],
        max_tokens: int = 4,
        *,
        session: str | None = None,
        hint: Mapping[str, Any] | None = None,
    ) -> tuple[list[int], int]:
        """One request alone: its answer, and tokens of its prompt that were cached."""
        request_id = self.add(prompt, max_tokens, session=session, hint=hint)
        self.run()
        return self.outputs[request_id], self.cached[request_id]

    @contextmanager
    def lent(self) -> Iterator[TestEngine]:
        """To one test, which finds it empty and leaves it so."""
        self.forget_everything()
        yield self
        self.run()
        self.forget_everything()
        self.check_is_empty()

    def forget_everything(self) -> None:
        """The device's cache is emptied."""
        assert self.scheduler.reset_prefix_cache(
            reset_connector=self.scheduler.connector is not None
        )

    def check_pool(self) -> None:
        """Every block is free or held, and every place of the host."""
        check_pool(self.pool)
        connector = self.scheduler.connector
        if isinstance(connector, RlkvConnector) and connector.keeper is not None:
            connector.keeper.state.tier.index.check_integrity()

    def check_is_empty(self) -> None:
        """Nobody holds anything."""
        self.check_pool()
        assert self.num_free == NUM_BLOCKS - 1
        assert not self.scheduler.requests


def check_pool(pool: BlockPool) -> None:
    """The queue of free blocks holds every block without references, once each."""
    free = pool.free_block_queue.get_all_free_blocks()
    ids = [block.block_id for block in free]
    assert len(ids) == len(set(ids)) == pool.get_num_free_blocks()
    assert all(block.ref_cnt == 0 for block in free)
    held = [block for block in pool.blocks if block.ref_cnt > 0 and not block.is_null]
    assert len(ids) + len(held) == pool.num_gpu_blocks - 1
    assert all(block.ref_cnt >= 0 for block in pool.blocks)


def tokens(seed: int, num: int, start: int = 2, stop: int = 512) -> list[int]:
    """Random token ids."""
    rng = random.Random(seed)
    return [rng.randrange(start, stop) for _ in range(num)]


def strangers(engine: TestEngine, num: int = 8, length: int = 600) -> None:
    """Fill the memory one after the other; what they leave is cache as in stock vLLM."""
    for i in range(num):
        engine.ask(tokens(1000 + i, length), 1, hint={"verb": "preserve", "lease_s": 0.0})
