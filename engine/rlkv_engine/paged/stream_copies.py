"""Copies between GPU and host memory on a stream of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlkv_engine.paged.arena import Arena
from rlkv_engine.paged.copies import Copy
from rlkv_engine.paged.kernels.block_copy import gather_blocks, scatter_blocks

#: Blocks that are gathered before they cross the link; one copy is then as long as they are.
_STAGED_BLOCKS = 64


class StreamCopies:
    """Copies beside the compute stream: gathered on the device, then moved in long runs.

    Blocks of the device arena are ``2 * num_layers`` runs of memory apart. A kernel gathers them
    into a contiguous staging buffer, so that the link moves whole blocks, neighbours on the host
    together. No block is written again before ``wait`` has returned: the stream of the next
    iteration waits for this one.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._stream = torch.cuda.Stream(arena.device.device)  # type: ignore[no-untyped-call]
        layers, _, _, block_size, heads, dim = arena.device.shape
        self._staging = torch.empty(
            (_STAGED_BLOCKS, layers, 2, block_size, heads, dim),
            dtype=arena.device.dtype,
            device=arena.device.device,
        )
        self._under_way = False

    def start(self, copies: Sequence[Copy]) -> None:
        """Begins; the blocks must not change until ``wait`` returns."""
        if not copies:
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        self._under_way = True
        with torch.cuda.stream(self._stream):
            for copy in copies:
                for first in range(0, len(copy.device), _STAGED_BLOCKS):
                    last = first + _STAGED_BLOCKS
                    self._move(copy.out, copy.device[first:last], copy.host[first:last])

    def wait(self) -> list[Copy]:
        """What is computed from now on comes after the copies. An error of the GPU is raised."""
        if self._under_way:
            torch.cuda.current_stream().wait_stream(self._stream)
            self._under_way = False
        return []

    def close(self) -> None:
        """Waits for what is under way."""
        self._stream.synchronize()

    def _move(self, out: bool, device: Sequence[int], host: Sequence[int]) -> None:
        ids = torch.tensor(device, dtype=torch.int32).to(self._staging.device, non_blocking=True)
        staging = self._staging[: len(device)]
        if out:
            gather_blocks(self._arena.device, ids, staging)
        # Runs of neighbours on the host are one copy.
        start = 0
        for end in range(1, len(host) + 1):
            if end < len(host) and host[end] == host[end - 1] + 1:
                continue
            there = self._arena.host[host[start] : host[start] + end - start]
            if out:
                there.copy_(staging[start:end], non_blocking=True)
            else:
                staging[start:end].copy_(there, non_blocking=True)
            start = end
        if not out:
            scatter_blocks(staging, ids, self._arena.device)
