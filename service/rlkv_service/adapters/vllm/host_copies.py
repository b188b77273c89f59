"""A worker's share of the host tier: memory, and copies in both directions.

On a CUDA device copies run on a stream of their own, between the device and pinned memory, blocks
gathered into a staging tensor on the device: stores wait for the model run that was launched
before them, and the next model run waits for loads and for urgent stores, on the device alone.
That path was never run: it was written on a machine without a GPU. On a CPU, where it was tested,
copies are made when they are ordered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from rlkv_service.adapters.vllm.copy_orders import CopyOrder, CopyOrders, CopyReport


@dataclass(slots=True)
class _UnderWay:
    """Copies on the side stream that may not have ended."""

    start: torch.cuda.Event
    end: torch.cuda.Event
    order: CopyOrder
    is_load: bool
    staging: list[torch.Tensor] = field(default_factory=list)


class HostCopies:
    """Blocks of all layers in places of host memory.

    Args:
        caches: one tensor for each layer, ``[num_blocks, block_bytes]``, int8.
        num_slots: places.
        on_error: is told of a copy that failed.
    """

    def __init__(
        self,
        caches: Sequence[torch.Tensor],
        num_slots: int,
        on_error: Callable[[Exception], object],
    ) -> None:
        self._on_error = on_error
        self._caches = list(caches)
        device = self._caches[0].device
        self._is_cuda = device.type == "cuda"
        #: For each layer ``[num_slots, block_bytes]``.
        self.arena = [
            torch.empty((num_slots, cache.shape[1]), dtype=torch.int8, pin_memory=self._is_cuda)
            for cache in self._caches
        ]
        self._device = device
        #: What is in each place; a copy that expects something else fails.
        self._keys: list[bytes | None] = [None] * num_slots
        self._report = CopyReport()
        self._lost: set[int] = set()
        self._side = torch.cuda.Stream(device) if self._is_cuda else None
        self._under_way: list[_UnderWay] = []

    def before_forward(self, orders: CopyOrders) -> None:
        """Copies what this step is going to overwrite."""
        for order in orders.urgent_stores:
            self._store(order, blocks_next=True)

    def load(self, orders: CopyOrders) -> None:
        """Copies what this step is going to read."""
        for order in orders.loads:
            try:
                self._check(order)
                self._copy(order, is_load=True, blocks_next=True)
            except Exception as error:
                # Whatever went wrong, these blocks are to be computed.
                self._lost.update(order.block_ids)
                self._failed(order, error)

    def store(self, orders: CopyOrders) -> None:
        """Copies what is held until it is copied."""
        for order in orders.stores:
            self._store(order, blocks_next=False)

    def take_lost(self) -> set[int]:
        """Blocks that were to be loaded and were not."""
        lost, self._lost = self._lost, set()
        return lost

    def take_report(self) -> CopyReport:
        """What has ended since the last call."""
        still = []
        for each in self._under_way:
            if each.end.query():
                self._done(each.order, each.is_load, 1e-3 * each.start.elapsed_time(each.end))
            else:
                still.append(each)
        self._under_way = still
        report, self._report = self._report, CopyReport()
        return report

    def _check(self, order: CopyOrder) -> None:
        for slot, key in zip(order.slots, order.keys, strict=True):
            if self._keys[slot] != key:
                raise LookupError(f"place {slot} of the host tier holds another block")

    def _store(self, order: CopyOrder, *, blocks_next: bool) -> None:
        for slot in order.slots:
            self._keys[slot] = None
        try:
            self._copy(order, is_load=False, blocks_next=blocks_next)
        except Exception as error:
            self._failed(order, error)
            return
        for slot, key in zip(order.slots, order.keys, strict=True):
            self._keys[slot] = key

    def _copy(self, order: CopyOrder, *, is_load: bool, blocks_next: bool) -> None:
        ids = torch.tensor(list(order.block_ids), dtype=torch.int64)
        slots = torch.tensor(list(order.slots), dtype=torch.int64)
        if self._is_cuda:
            self._copy_on_side(order, ids, is_load=is_load, blocks_next=blocks_next)
            return
        began_s = time.perf_counter()
        for cache, host in zip(self._caches, self.arena, strict=True):
            if is_load:
                cache.index_copy_(0, ids, host.index_select(0, slots))
            else:
                host.index_copy_(0, slots, cache.index_select(0, ids))
        self._done(order, is_load, time.perf_counter() - began_s)

    def _copy_on_side(
        self, order: CopyOrder, ids: torch.Tensor, *, is_load: bool, blocks_next: bool
    ) -> None:
        side, main = self._side, torch.cuda.current_stream(self._device)
        assert side is not None
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        side.wait_stream(main)
        under_way = _UnderWay(start, end, order, is_load)
        runs = _runs(order.slots)
        with torch.cuda.stream(side):
            start.record(side)
            on_device = ids.pin_memory().to(self._device, non_blocking=True)
            for cache, host in zip(self._caches, self.arena, strict=True):
                if is_load:
                    staging = torch.empty(
                        (len(ids), cache.shape[1]), dtype=torch.int8, device=self._device
                    )
                    for at, slot, num in runs:
                        staging[at : at + num].copy_(host[slot : slot + num], non_blocking=True)
                    cache.index_copy_(0, on_device, staging)
                else:
                    staging = cache.index_select(0, on_device)
                    for at, slot, num in runs:
                        host[slot : slot + num].copy_(staging[at : at + num], non_blocking=True)
                under_way.staging.append(staging)
            end.record(side)
        if blocks_next:
            main.wait_event(end)
        self._under_way.append(under_way)

    def _done(self, order: CopyOrder, is_load: bool, copy_s: float) -> None:
        report, num = self._report, len(order.slots)
        report.num_done[order.job] = 1
        if is_load:
            report.in_blocks += num
            report.in_s += copy_s
        else:
            report.out_blocks += num
            report.out_s += copy_s

    def _failed(self, order: CopyOrder, error: Exception) -> None:
        self._report.refuse(order)
        self._on_error(error)


def _runs(slots: Sequence[int]) -> list[tuple[int, int, int]]:
    """Places next to each other: first index, first place, how many."""
    runs: list[tuple[int, int, int]] = []
    for i, slot in enumerate(slots):
        if runs and slot == runs[-1][1] + runs[-1][2]:
            at, first, num = runs[-1]
            runs[-1] = (at, first, num + 1)
        else:
            runs.append((i, slot, 1))
    return runs
