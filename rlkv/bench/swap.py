"""How fast KV blocks move between the tiers, and what that costs the iterations beside it."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from rlkv.bench.beside_copies import iterations_slowed
from rlkv.bench.measure import Size
from rlkv.provenance import device_name
from rlkv_engine.paged.arena import Arena, KVShape, build_arena, host_memory
from rlkv_engine.paged.copies import Copy, copy_engine

#: KV of SmolLM2-135M in fp32: 737 kB a block of 16 tokens.
SHAPE = KVShape(num_layers=30, num_kv_heads=3, head_dim=64, dtype=torch.float32)
BLOCK_SIZE = 16
NUM_BLOCKS, NUM_BLOCKS_OF_GPU = 256, 1024
#: Blocks that are moved together: about what a budget of one iteration is.
COPIED = (1, 8, 64)
#: The link of a GPU moves so many in the time of one: 377 MB.
COPIED_BY_GPU = (8, 64, 512)


def swap(size: Size) -> dict[str, Any]:
    """Bytes per second of swapping over those of one large copy of the same size.

    Blocks are drawn at random on both tiers; the large copy is contiguous memory to contiguous
    memory (on a GPU one ``cudaMemcpyAsync`` from or to pinned memory), in the same thread, by turns
    with the blocks. Then the time of an iteration of the model that copies so many of its own
    blocks over that of one that does not.
    """
    threads = torch.get_num_threads()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    num_blocks = NUM_BLOCKS_OF_GPU if device.type == "cuda" else NUM_BLOCKS
    counts = COPIED_BY_GPU if device.type == "cuda" else COPIED
    arena = build_arena(
        SHAPE,
        num_device_blocks=num_blocks,
        num_host_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        device=device,
    )
    arena.device.normal_()
    arena.host.normal_()
    figures: dict[str, float] = {}
    for copied in counts:
        for out in (True, False):
            ratio, bytes_per_s = _over_memcpy(arena, copied, out, 3 * size.repetitions)
            way = "out" if out else "in"
            figures[f"copy_over_memcpy_{way}_{copied}"] = ratio
            figures[f"bytes_per_s_{way}_{copied}"] = bytes_per_s
    largest = max(counts)
    figures["copy_over_memcpy"] = min(
        figures[f"copy_over_memcpy_{way}_{largest}"] for way in ("out", "in")
    )
    slowed = iterations_slowed(size, COPIED)
    figures |= {f"iteration_slowed_{name}": ratio for name, ratio in slowed.items()}
    figures["iteration_slowed_ratio"] = max(slowed.values())
    return {
        "figures": figures,
        "measured_on": {
            "device": device_name(device),
            "block_bytes": arena.block_bytes,
            "pinned": arena.pinned,
            "threads": threads,
            "iterations_of": size.engine_model,
        },
    }


def _over_memcpy(arena: Arena, copied: int, out: bool, repetitions: int) -> tuple[float, float]:
    copies = copy_engine(arena)
    random = np.random.default_rng(0)
    num_blocks = arena.host.shape[0]
    flat, _ = host_memory((copied, *arena.host.shape[1:]), arena.host.dtype, pin=arena.pinned)
    large = torch.randn(flat.shape, dtype=flat.dtype, device=arena.device.device)
    flat.copy_(large)
    arena.synchronize()
    ratios, speeds = [], []
    for repetition in range(repetitions + 1):
        device = random.choice(num_blocks, copied, replace=False).tolist()
        host = random.choice(num_blocks, copied, replace=False).tolist()
        start_s = time.perf_counter()
        copies.start([Copy(0, out, range(copied), device, host)])
        copies.wait()
        blocks_s = time.perf_counter() - start_s
        start_s = time.perf_counter()
        if out:
            flat.copy_(large, non_blocking=True)
        else:
            large.copy_(flat, non_blocking=True)
        arena.synchronize()
        large_s = time.perf_counter() - start_s
        if repetition > 0:
            ratios.append(large_s / blocks_s)
            speeds.append(copied * arena.block_bytes / blocks_s)
    copies.close()
    return statistics.median(ratios), statistics.median(speeds)
