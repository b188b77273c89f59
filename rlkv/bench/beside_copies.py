"""How much longer an iteration takes with a swap beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlkv.bench.measure import Size
from rlkv.calibration import Sizes, provisional_profile
from rlkv.engine_setup import load
from rlkv_engine.paged.arena import Arena, arena_for
from rlkv_engine.paged.attention_batch import AttentionBatch, Span
from rlkv_engine.paged.copies import Copy, CopyEngine, copy_engine

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

BLOCK_SIZE = 16
#: Sessions that decode, with contexts of so many blocks each.
NUM_DECODE, CONTEXT_BLOCKS = 8, 16
#: Blocks of each tier that no session has: what is copied.
NUM_SPARE = 256
#: Pairs of iterations for one repetition of the benches.
PAIRS = 40


def iterations_slowed(size: Size, copied: Sequence[int]) -> dict[str, float]:
    """By ``way_blocks``: time of a decode iteration that copies over one that does not.

    The same iteration by turns with and without, medians of the pairs.
    """
    loaded = load(size.engine_model)
    num_used = NUM_DECODE * CONTEXT_BLOCKS
    sizes = replace(Sizes(), num_device_blocks=num_used + NUM_SPARE, num_host_blocks=NUM_SPARE)
    arena = arena_for(loaded, provisional_profile(loaded, sizes))
    arena.device.normal_()
    arena.host.normal_()
    copies = copy_engine(arena)
    random = np.random.default_rng(0)
    ratios: dict[str, list[float]] = {}
    try:
        for pair in range(PAIRS * size.repetitions + 1):
            for count in copied:
                for way in ("out", "in"):
                    device = num_used + random.choice(NUM_SPARE, count, replace=False)
                    host = random.choice(NUM_SPARE, count, replace=False)
                    copy = Copy(0, way == "out", range(count), device.tolist(), host.tolist())
                    alone_s = _iteration_s(loaded, arena, copies, [])
                    beside_s = _iteration_s(loaded, arena, copies, [copy])
                    if pair > 0:  # the first warms up
                        ratios.setdefault(f"{way}_{count}", []).append(beside_s / alone_s)
    finally:
        copies.close()
    return {name: statistics.median(each) for name, each in ratios.items()}


@torch.inference_mode()
def _iteration_s(
    loaded: LoadedModel, arena: Arena, copies: CopyEngine, moved: Sequence[Copy]
) -> float:
    device = arena.device.device
    length = CONTEXT_BLOCKS * BLOCK_SIZE
    tables = np.arange(NUM_DECODE * CONTEXT_BLOCKS, dtype=np.int32).reshape(NUM_DECODE, -1)
    batch = AttentionBatch.from_spans(
        [Span(table, length - 1, length) for table in tables],
        [],
        block_size=BLOCK_SIZE,
        device=device,
    )
    ids = torch.arange(NUM_DECODE, device=device)
    positions = torch.full_like(ids, length - 1)
    arena.synchronize()
    start_s = time.perf_counter()
    copies.start(moved)
    loaded.model(ids, positions, arena.device, batch)
    copies.wait()
    arena.synchronize()
    return time.perf_counter() - start_s
