"""An engine in little, with vLLM's ways with blocks, whose blocks say what they hold.

Every block and every place on the host has a content: the hash of what was computed into it. A load
that brings anything but what the request asked for fails the test, and so does a block that is
freed twice or never.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlkv_service.adapters.vllm.copy_orders import CopyOrder, CopyReport
from rlkv_service.adapters.vllm.engine_state import Engine
from rlkv_service.adapters.vllm.keeper import Keeper
from rlkv_service.adapters.vllm.settings import Settings

BLOCK = 4


class FakePool:
    """Blocks with references, hashes and contents; free ones in a queue."""

    def __init__(self, num_blocks: int) -> None:
        self.references = [0] * num_blocks
        self.hashes: list[bytes | None] = [None] * num_blocks
        self.contents: list[bytes | None] = [None] * num_blocks
        self.queue = deque(range(num_blocks))
        self.found: dict[bytes, list[int]] = {}

    @property
    def num_blocks(self) -> int:
        return len(self.references)

    @property
    def num_free(self) -> int:
        return len(self.queue)

    def num_references(self, block_id: int) -> int:
        return self.references[block_id]

    def hash_of(self, block_id: int) -> bytes | None:
        return self.hashes[block_id]

    def find(self, block_hash: bytes) -> int | None:
        found = self.found.get(block_hash)
        return found[0] if found else None

    def touch(self, block_ids: Iterable[int]) -> None:
        for block_id in block_ids:
            if not self.references[block_id]:
                self.queue.remove(block_id)
            self.references[block_id] += 1

    def free(self, block_ids: Iterable[int]) -> None:
        first: list[int] = []
        last: list[int] = []
        for block_id in block_ids:
            assert self.references[block_id] > 0, f"block {block_id} is freed twice"
            self.references[block_id] -= 1
            if not self.references[block_id]:
                (first if self.hashes[block_id] is None else last).append(block_id)
        self.queue.extendleft(reversed(first))
        self.queue.extend(last)

    def drop_hashes(self, block_ids: Iterable[int]) -> None:
        for block_id in block_ids:
            self._unhash(block_id)

    def take(self, num: int) -> list[int]:
        """Blocks for somebody."""
        assert num <= self.num_free
        taken = [self.queue.popleft() for _ in range(num)]
        for block_id in taken:
            self._unhash(block_id)
            self.references[block_id] = 1
        return taken

    def name(self, block_id: int, block_hash: bytes) -> None:
        """A block is full."""
        if self.hashes[block_id] is None:
            self.hashes[block_id] = block_hash
            self.found.setdefault(block_hash, []).append(block_id)

    def _unhash(self, block_id: int) -> None:
        block_hash = self.hashes[block_id]
        if block_hash is not None:
            self.hashes[block_id] = None
            self.found[block_hash].remove(block_id)
            if not self.found[block_hash]:
                del self.found[block_hash]


class FakeRequest:
    """A request as the plug-in sees it."""

    def __init__(
        self,
        request_id: str,
        prompt: Sequence[int],
        max_tokens: int = 1,
        session: str | None = None,
        hint: Mapping[str, Any] | None = None,
    ) -> None:
        self.request_id, self.session_id = request_id, session
        self.kv_transfer_params: dict[str, Any] | None = (
            None if hint is None else {"rlkv": dict(hint)}
        )
        self.num_prompt_tokens, self.max_tokens = len(prompt), max_tokens
        self.tokens = list(prompt)
        self.block_hashes: Sequence[bytes] = []
        self.num_computed_tokens = self.num_in_flight_tokens = 0
        self.block_ids: list[int] = []
        self.found_tokens = (0, 0)  #: at the last admission: device, host
        self._hash()

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def all_token_ids(self) -> Sequence[int]:
        return self.tokens

    @property
    def output_token_ids(self) -> Sequence[int]:
        return self.tokens[self.num_prompt_tokens :]

    def append(self, token: int) -> None:
        self.tokens.append(token)
        self._hash()

    def _hash(self) -> None:
        while (len(self.block_hashes) + 1) * BLOCK <= len(self.tokens):
            start = len(self.block_hashes) * BLOCK
            parent = self.block_hashes[-1] if self.block_hashes else b""
            content = parent + repr(self.tokens[start : start + BLOCK]).encode()
            block_hash = hashlib.blake2b(content, digest_size=8).digest()
            self.block_hashes = [*self.block_hashes, block_hash]


class FakeEngine:
    """Admits in order, computes a prompt in one step, then a token a step."""

    def __init__(
        self,
        num_blocks: int = 32,
        num_host_blocks: int = 0,
        client: Any = None,
        **settings: Any,
    ) -> None:
        self.pool = FakePool(num_blocks)
        self.now_s = 1000.0
        self.keeper = Keeper(
            Settings(
                host_gib=float(num_host_blocks),
                **{"redis": "redis://nowhere", **settings},
            ),
            Engine("engine", BLOCK, 8, num_host_blocks),
            self.pool,
            client,
            clock=lambda: self.now_s,
        )
        self.host: dict[int, bytes | None] = {}
        self.waiting: deque[FakeRequest] = deque()
        self.running: list[FakeRequest] = []
        self.num_requests = self.num_preempted = self.num_steps = 0
        #: Loads of this many next jobs fail.
        self.failing = 0

    def add(self, prompt: Sequence[int], max_tokens: int = 1, **options: Any) -> FakeRequest:
        self.num_requests += 1
        request = FakeRequest(f"r{self.num_requests}", prompt, max_tokens, **options)
        self.waiting.append(request)
        self.keeper.on_new_request(request)
        return request

    def ask(self, prompt: Sequence[int], max_tokens: int = 1, **options: Any) -> FakeRequest:
        """One request, until all are over."""
        request = self.add(prompt, max_tokens, **options)
        self.run()
        return request

    def run(self, most: int = 1000) -> None:
        while self.waiting or self.running or self.keeper.has_work:
            self.step()
            most -= 1
            assert most, "requests that never end"

    def abort(self, request: FakeRequest) -> None:
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        else:
            return
        self._finish(request, is_normal=False)

    def step(self) -> None:
        self.now_s += 0.01
        self.num_steps += 1
        scheduled: dict[str, int] = {}
        preempted = self._grow(scheduled)
        if not preempted:
            self._admit(scheduled)
        orders = self.keeper.step(scheduled)
        report = CopyReport()
        for order in orders.urgent_stores:
            self._store(order, report)
        lost = set(orders.lost_block_ids)
        for order in orders.loads:
            lost |= self._load(order, report)
        assert not lost or self.failing >= 0
        for request in self.running:
            if (num := scheduled.get(request.request_id)) is not None:
                self._compute(request, num, lost)
        for order in orders.stores:
            self._store(order, report)
        done = [r for r in self.running if r.num_output_tokens >= r.max_tokens]
        for request in done:
            self.running.remove(request)
            self._finish(request, is_normal=True)
        self.keeper.on_step_done(report if report else None)

    def check(self) -> None:
        """Nothing is lost, nothing is given twice."""
        pool, keeper = self.pool, self.keeper.state
        assert sorted(pool.queue) == [i for i, n in enumerate(pool.references) if not n]
        own = [0] * pool.num_blocks
        for request in (*self.running, *self.waiting):
            for block_id in request.block_ids:
                own[block_id] += 1
        for holds in (keeper.holds, keeper.tier._sources):
            for name in holds.owners:
                for block_id in holds.of(name):
                    own[block_id] += 1
        assert own == pool.references
        keeper.tier.index.check_integrity()

    def _grow(self, scheduled: dict[str, int]) -> bool:
        preempted = False
        for request in list(self.running):
            if request not in self.running:
                continue
            missing = -(-request.num_tokens // BLOCK) - len(request.block_ids)
            while missing > 0 and self.pool.num_free < missing:
                if self.keeper.free_some():
                    break
                victim = self.running.pop()
                self.pool.free(reversed(victim.block_ids))
                victim.block_ids, victim.num_computed_tokens = [], 0
                scheduled.pop(victim.request_id, None)
                self.waiting.appendleft(victim)
                self.num_preempted += 1
                preempted = True
                if victim is request:
                    break
            if request not in self.running or self.pool.num_free < missing:
                continue
            if missing > 0:
                request.block_ids += self.pool.take(missing)
            scheduled[request.request_id] = request.num_tokens - request.num_computed_tokens
        return preempted

    def _admit(self, scheduled: dict[str, int]) -> None:
        while self.waiting:
            request = self.waiting[0]
            most = (request.num_tokens - 1) // BLOCK
            local: list[int] = []
            for block_hash in request.block_hashes[:most]:
                if (block_id := self.pool.find(block_hash)) is None:
                    break
                local.append(block_id)
            num_host = self.keeper.host_tokens_for(request, len(local) * BLOCK) // BLOCK
            assert len(local) + num_host <= most
            need = -(-request.num_tokens // BLOCK) - len(local)
            free_hits = sum(not self.pool.references[block_id] for block_id in local)
            if need + free_hits > self.pool.num_free:
                return
            self.waiting.popleft()
            self.pool.touch(local)
            request.block_ids = local + self.pool.take(need)
            for i, block_hash in enumerate(request.block_hashes[: len(local) + num_host]):
                self.pool.name(request.block_ids[i], block_hash)
            request.num_computed_tokens = (len(local) + num_host) * BLOCK
            request.found_tokens = (len(local) * BLOCK, num_host * BLOCK)
            scheduled[request.request_id] = request.num_tokens - request.num_computed_tokens
            self.running.append(request)
            self.keeper.on_allocated(request, request.block_ids, num_host * BLOCK)

    def _compute(self, request: FakeRequest, num: int, lost: set[int]) -> None:
        computed = request.num_computed_tokens
        for i, block_hash in enumerate(request.block_hashes):
            block_id = request.block_ids[i]
            if (i + 1) * BLOCK <= computed and block_id not in lost:
                assert self.pool.contents[block_id] == block_hash, "a wrong block is read"
            elif (i + 1) * BLOCK <= computed + num:
                self.pool.contents[block_id] = block_hash
                self.pool.name(block_id, block_hash)
        request.num_computed_tokens = computed + num
        request.append((sum(request.tokens) * 31 + len(request.tokens)) % 97)

    def _finish(self, request: FakeRequest, *, is_normal: bool) -> None:
        self.keeper.on_finished(request, request.block_ids, is_normal=is_normal)
        self.pool.free(reversed(request.block_ids))
        request.block_ids = []

    def _store(self, order: CopyOrder, report: CopyReport) -> None:
        for block_id, slot, key in zip(order.block_ids, order.slots, order.keys, strict=True):
            assert self.pool.contents[block_id] == key, "a block that was overwritten is stored"
            self.host[slot] = key
        report.num_done[order.job] = 1

    def _load(self, order: CopyOrder, report: CopyReport) -> set[int]:
        if self.failing > 0:
            self.failing -= 1
            report.refuse(order)
            return set(order.block_ids)
        for block_id, slot, key in zip(order.block_ids, order.slots, order.keys, strict=True):
            assert self.host[slot] == key, "a place of the host holds another block"
            self.pool.contents[block_id] = key
        report.num_done[order.job] = 1
        return set()
