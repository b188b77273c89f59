"""Copies of KV blocks between the tiers, made beside an iteration's compute."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from rlkv_engine.paged.arena import Arena


@dataclass(frozen=True, slots=True)
class Copy:
    """Blocks of one slot that change tier in one iteration: ``device[i]`` and ``host[i]``."""

    slot: int
    out: bool  #: to the host
    positions: Sequence[int]  #: of the blocks in the slot's context
    device: Sequence[int]
    host: Sequence[int]


class CopyEngine(Protocol):
    """Makes copies in the background. One set at a time: start, then wait."""

    def start(self, copies: Sequence[Copy]) -> None:
        """Begins; the blocks must not change until ``wait`` returns."""

    def wait(self) -> list[Copy]:
        """Returns when all copies are done: those that failed, empty where none did."""

    def close(self) -> None:
        """Ends the thread or stream behind it."""


class ThreadCopies:
    """Copies on a worker thread, for a machine whose two tiers are both RAM.

    A block of the device arena is ``2 * num_layers`` runs of memory. NumPy moves them without
    Python's lock, beside the model's compute, and on this thread alone: PyTorch would share each
    copy out among the threads that compute.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rlkv-copies")
        self._running: Future[list[Copy]] | None = None

    def start(self, copies: Sequence[Copy]) -> None:
        """Begins; the blocks must not change until ``wait`` returns."""
        if copies:
            self._running = self._thread.submit(self._run, list(copies))

    def wait(self) -> list[Copy]:
        """Returns when all copies are done: those that failed, empty where none did."""
        if self._running is None:
            return []
        running, self._running = self._running, None
        return running.result()

    def close(self) -> None:
        """Waits for what is under way, and ends the thread."""
        self._thread.shutdown()

    def _run(self, copies: list[Copy]) -> list[Copy]:
        return [copy for copy in copies if not self._copied(copy)]

    def _copied(self, copy: Copy) -> bool:
        try:
            copy_blocks(self._arena, copy)
        except (RuntimeError, MemoryError):
            return False
        return True


def copy_engine(arena: Arena) -> CopyEngine:
    """What makes copies on this machine: a stream of the GPU, or a thread where there is none."""
    if arena.device.is_cuda:
        from rlkv_engine.paged.stream_copies import StreamCopies

        return StreamCopies(arena)
    return ThreadCopies(arena)


def copy_blocks(arena: Arena, copy: Copy) -> None:
    """Makes one copy at once, in the calling thread; both tiers are RAM."""
    # As integers of the same size: NumPy has no bfloat16.
    integers = {2: torch.int16, 4: torch.int32}[arena.device.element_size()]
    on_device, on_host = arena.device.view(integers).numpy(), arena.host.view(integers).numpy()
    for device, host in zip(copy.device, copy.host, strict=True):
        if copy.out:
            np.copyto(on_host[host], on_device[:, :, device])
        else:
            np.copyto(on_device[:, :, device], on_host[host])
