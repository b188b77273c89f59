"""The host tier as the scheduler sees it: what is there, and copies under way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rlkv_service.adapters.vllm.copy_orders import CopyOrder, CopyOrders, CopyReport
from rlkv_service.adapters.vllm.holds import Holds
from rlkv_service.adapters.vllm.host_index import HostIndex
from rlkv_service.adapters.vllm.pool import Pool


@dataclass(slots=True, eq=False)
class _Job:
    order: CopyOrder
    is_load: bool
    owner: str
    num_done: int = 0


class HostTier:
    """Orders copies, and keeps source and target of each until it is done.

    Args:
        pool: the device's blocks.
        num_slots: blocks that the host has room for; 0: there is no tier.
        num_workers: that carry out every order, each for its share of a block.
    """

    def __init__(self, pool: Pool, num_slots: int, num_workers: int = 1) -> None:
        self._pool, self._num_workers = pool, num_workers
        self.index = HostIndex(num_slots)
        #: References to the sources of stores, by job.
        self._sources = Holds(pool)
        self._jobs: dict[int, _Job] = {}
        self._unsent: dict[int, _Job] = {}  # stores that may still be called off
        self._next = CopyOrders()
        self._num_jobs = 0
        self.num_stored = self.num_loaded = self.num_failed_stores = self.num_failed_loads = 0

    @property
    def num_pending_blocks(self) -> int:
        """Device blocks that are held until they are copied."""
        return self._sources.num_blocks

    @property
    def num_unsent_blocks(self) -> int:
        """Of these, blocks that would be free if their copies were urgent."""
        return sum(self._sources.num_freed_by(str(number)) for number in self._unsent)

    @property
    def has_work(self) -> bool:
        """Whether a copy is ordered and not done."""
        return bool(self._jobs or self._unsent)

    @property
    def has_stores_under_way(self) -> bool:
        """Whether blocks will be free when a copy is done."""
        return len(self._sources) > len(self._unsent)

    def is_storing(self, owner: str) -> bool:
        """Whether blocks of an owner are being copied to the host."""
        jobs = (*self._jobs.values(), *self._unsent.values())
        return any(job.owner == owner and not job.is_load for job in jobs)

    def store(
        self,
        owner: str,
        pairs: Sequence[tuple[bytes, int]],
        expected_back_s: Callable[[str], float],
        *,
        urgent: bool = False,
        spare: Collection[bytes] = (),
    ) -> bool:
        """Orders copies to the host.

        Args:
            owner: whose blocks these are.
            pairs: hash and device block, in the order of the context, not on the host yet.
            expected_back_s: for the choice of who makes room.
            urgent: the blocks are given away now: copied before this step writes anything.
            spare: hashes that must stay on the host.

        Returns:
            Whether there is room; if not, nothing has changed.
        """
        keys = [block_hash for block_hash, _ in pairs]
        slots = self.index.put(owner, keys, expected_back_s, spare)
        if slots is None:
            return False
        if pairs:
            order = self._order([block_id for _, block_id in pairs], slots, keys)
            job = _Job(order, False, owner)
            if urgent:
                self._send_urgently(job)
            else:
                self._sources.hold(str(order.job), order.block_ids)
                self._unsent[order.job] = job
        return True

    def load(self, keys: Sequence[bytes], block_ids: Sequence[int]) -> None:
        """Orders copies to the device, for this step's model run."""
        order = self._order(list(block_ids), self.index.pin(keys), list(keys))
        self._jobs[order.job] = _Job(order, True, "")
        self._next.loads.append(order)

    def lose(self, block_ids: Sequence[int]) -> None:
        """Blocks that were promised cannot be loaded: they are to be computed."""
        self._next.lost_block_ids.extend(block_ids)

    def hurry(self) -> None:
        """Lets go of all sources that are not being copied yet: they are copied urgently."""
        for job in list(self._unsent.values()):
            self._send_urgently(self._recall(job))

    def call_off(self, owner: str | None = None) -> None:
        """Stores of an owner, or of all, that are not under way are not made."""
        for job in list(self._unsent.values()):
            if owner in (None, job.owner):
                order = self._recall(job).order
                for block_hash, slot in zip(order.keys, order.slots, strict=True):
                    self.index.failed(block_hash, slot)
                    self.index.release_unwritten(slot)

    def take_orders(self) -> CopyOrders:
        """What this step's workers are to do."""
        orders, self._next = self._next, CopyOrders()
        for job in self._unsent.values():
            orders.stores.append(job.order)
            self._jobs[job.order.job] = job
        self._unsent = {}
        return orders

    def settle(self, report: CopyReport) -> None:
        """Workers have done something."""
        for number, num in report.num_done.items():
            job = self._jobs.get(number)
            if job is None:
                continue
            job.num_done += num
            if number in report.failed:
                for block_hash, slot in zip(job.order.keys, job.order.slots, strict=True):
                    self.index.failed(block_hash, slot)
            if job.num_done >= self._num_workers:
                self._finish(number, job, failed=number in report.failed)

    def abandon(self) -> None:
        """Forgets everything; nothing that is here will be read again."""
        for number in self._sources.owners:
            self._sources.release(number)
        self._jobs, self._unsent, self._next = {}, {}, CopyOrders()

    def _finish(self, number: int, job: _Job, *, failed: bool) -> None:
        del self._jobs[number]
        order = job.order
        for block_hash, slot in zip(order.keys, order.slots, strict=True):
            if job.is_load:
                self.index.unpin(block_hash, slot)
            else:
                self.index.stored(block_hash, slot)
        self._sources.release(str(number))
        num = len(order.keys)
        if job.is_load:
            self.num_loaded += num
            self.num_failed_loads += failed
        else:
            self.num_stored += num
            self.num_failed_stores += failed

    def _order(self, block_ids: list[int], slots: list[int], keys: list[bytes]) -> CopyOrder:
        self._num_jobs += 1
        return CopyOrder(self._num_jobs, block_ids, slots, keys)

    def _recall(self, job: _Job) -> _Job:
        del self._unsent[job.order.job]
        self._sources.release(str(job.order.job))
        return job

    def _send_urgently(self, job: _Job) -> None:
        self._jobs[job.order.job] = job
        self._next.urgent_stores.append(job.order)
