"""Copies between GPU and host memory beside the compute, on a stream for each direction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from rlkv_engine.paged.arena import Arena
from rlkv_engine.paged.copies import Copy
from rlkv_engine.paged.kernels.block_copy import gather_blocks, scatter_blocks
from rlkv_engine.paged.kernels.tier_copy import copy_between_tiers

#: Blocks that are gathered before they cross the link, where the host's memory is not pinned.
_STAGED_BLOCKS = 64


class StreamCopies:
    """Copies beside the compute stream, to the host and from there at the same time.

    One kernel for each direction moves all blocks of an iteration, as it reads and writes pinned
    memory itself. Where the host's memory could not be pinned, blocks are gathered on the device
    into a staging buffer and cross the link from there; the calling thread waits for that.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._device = arena.device.device
        #: By whether they lead out.
        self._streams = {out: torch.cuda.Stream(self._device) for out in (True, False)}  # type: ignore[no-untyped-call]
        self._under_way: list[torch.cuda.Stream] = []

    def start(self, copies: Sequence[Copy]) -> None:
        """Begins; the blocks must not change until ``wait`` returns."""
        for out, stream in self._streams.items():
            device = list(chain.from_iterable(c.device for c in copies if c.out == out))
            host = list(chain.from_iterable(c.host for c in copies if c.out == out))
            if not device:
                continue
            # What was computed before is what is copied.
            stream.wait_stream(torch.cuda.current_stream(self._device))
            self._under_way.append(stream)
            with torch.cuda.stream(stream):
                if self._arena.pinned:
                    self._move(out, device, host)
                else:
                    self._move_staged(out, device, host)

    def wait(self) -> list[Copy]:
        """Returns when all copies are done. An error of the GPU is raised."""
        for stream in self._under_way:
            stream.synchronize()
        self._under_way.clear()
        return []

    def close(self) -> None:
        """Waits for what is under way."""
        self.wait()

    def _move(self, out: bool, device: list[int], host: list[int]) -> None:
        device_ids, host_ids = self._on_device([device, host])
        copy_between_tiers(self._arena.device, self._arena.host, device_ids, host_ids, out=out)

    def _move_staged(self, out: bool, device: list[int], host: list[int]) -> None:
        for first in range(0, len(device), _STAGED_BLOCKS):
            ids = self._on_device(device[first : first + _STAGED_BLOCKS])
            there = torch.tensor(host[first : first + _STAGED_BLOCKS])
            shape = (len(ids), *self._arena.host.shape[1:])
            if out:
                staging = torch.empty(shape, dtype=self._arena.device.dtype, device=self._device)
                gather_blocks(self._arena.device, ids, staging)
                self._arena.host[there] = staging.cpu()
            else:
                scatter_blocks(self._arena.host[there].to(self._device), ids, self._arena.device)

    def _on_device(self, ids: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int32).to(self._device, non_blocking=True)
