"""Copies scattered blocks between the device arena and pinned memory of the host, in one launch.

A GPU reads and writes pinned memory of the host by its address, so that blocks need neither a
staging buffer nor a call each, whose time would be that of the thread that launches the model. A
few programs fill the link, and leave the other multiprocessors to the model. vLLM takes a Triton
kernel for copies to the device too, where runs are below 28 KiB
(``vllm/v1/kv_offload/cpu/gpu_worker.py``, read in vllm-project/vllm#57342).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rlkv_engine.errors import InputError
from rlkv_engine.paged.kernels.block_copy import copy_word
from rlkv_engine.paged.kernels.layout import check_contiguous

#: Programs at most, and warps of each. A link of 55 GB/s with 2 us on its way needs 110 kB asked
#: for at any time.
NUM_PROGRAMS = 16
NUM_WARPS = 16
#: Bytes that a program copies at a time: two 16-byte loads a thread.
_TILE_BYTES = 16384


def copy_between_tiers(
    arena: Tensor,
    host: Tensor,
    device_ids: Tensor,
    host_ids: Tensor,
    *,
    out: bool,
    num_programs: int = NUM_PROGRAMS,
) -> None:
    """Copies block ``device_ids[i]`` of every layer to block ``host_ids[i]``, or back.

    Args:
        arena: ``[num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim]``, contiguous, any
            dtype.
        host: ``[num_host_blocks, num_layers, 2, block_size, num_kv_heads, head_dim]``, contiguous,
            same dtype, in pinned memory.
        device_ids: ``[n]`` int32, on the device; none twice where they are written.
        host_ids: ``[n]`` int32, on the device; likewise.
        out: To the host.
        num_programs: Multiprocessors that work on it, at most.

    Raises:
        InputError: tensors laid out otherwise, or memory that a GPU cannot read.
    """
    check_contiguous(arena=arena, host=host, device_ids=device_ids, host_ids=host_ids)
    if arena.is_cuda and not host.is_pinned():
        raise InputError("host: memory that is not pinned cannot be read by a GPU")
    num_layers, sides, num_blocks = arena.shape[:3]
    run_bytes = arena.stride(2) * arena.element_size()
    word = copy_word(run_bytes)
    planes, run = num_layers * sides, run_bytes // word.itemsize
    tile = copy_tile(planes * run, word.itemsize)
    num_tiles = device_ids.shape[0] * triton.cdiv(planes * run, tile)
    _copy_between_tiers_kernel[(min(num_tiles, num_programs),)](
        arena.view(-1).view(word),
        host.view(-1).view(word),
        device_ids,
        host_ids,
        num_blocks,
        num_tiles,
        PLANES=planes,
        RUN=run,
        TILE=tile,
        OUT=out,
        num_warps=NUM_WARPS,
    )


def copy_between_tiers_reference(
    arena: Tensor, host: Tensor, device_ids: Tensor, host_ids: Tensor, *, out: bool
) -> None:
    """The same in torch."""
    there = host_ids.long().to(host.device)
    if out:
        host[there] = arena[:, :, device_ids.long()].permute(2, 0, 1, 3, 4, 5).to(host.device)
    else:
        arena[:, :, device_ids.long()] = host[there].permute(1, 2, 0, 3, 4, 5).to(arena.device)


def copy_tile(block: int, word_bytes: int) -> int:
    """Words of a block that one program copies at a time, for a block of so many."""
    return min(triton.next_power_of_2(block), _TILE_BYTES // word_bytes)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["num_blocks", "num_tiles"],
    # Both come in one upload: where the second begins depends on the number of blocks.
    do_not_specialize_on_alignment=["device_ids_ptr", "host_ids_ptr"],
)
def _copy_between_tiers_kernel(
    arena_ptr: tl.tensor,
    host_ptr: tl.tensor,
    device_ids_ptr: tl.tensor,
    host_ids_ptr: tl.tensor,
    num_blocks: tl.tensor,
    num_tiles: tl.tensor,
    PLANES: tl.constexpr,
    RUN: tl.constexpr,
    TILE: tl.constexpr,
    OUT: tl.constexpr,
) -> None:
    # A block is one run of PLANES * RUN words on the host, and PLANES runs on the device.
    tiles: tl.constexpr = (PLANES * RUN + TILE - 1) // TILE
    for place in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        copied = place // tiles
        device_id = tl.load(device_ids_ptr + copied).to(tl.int64)
        host_id = tl.load(host_ids_ptr + copied).to(tl.int64)
        offsets = place % tiles * TILE + tl.arange(0, TILE)
        mask = offsets < PLANES * RUN
        planes = (offsets // RUN).to(tl.int64)
        device_words = arena_ptr + (planes * num_blocks + device_id) * RUN + offsets % RUN
        host_words = host_ptr + host_id * (PLANES * RUN) + offsets
        if OUT:
            tl.store(host_words, tl.load(device_words, mask=mask), mask=mask)
        else:
            tl.store(device_words, tl.load(host_words, mask=mask), mask=mask)
