"""Copies scattered blocks of all layers into one contiguous staging buffer, and back.

A swap is then one large copy between staging and the host instead of ``2 * num_layers`` small ones
a block, which is what limits vLLM's ``swap_blocks`` (``csrc/cache_kernels.cu``: one
``cudaMemcpyAsync`` per block, layer and side). A block's KV of one layer and side is one contiguous
run of the arena; it stays one in staging, and the runs of one block lie next to each other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlkv_engine.paged.kernels.layout import check_contiguous

#: Words that a program copies at most: 4 warps with four 16-byte loads each in flight.
_MAX_TILE_BYTES = 8192
_MIN_TILE_BYTES = 2048


def gather_blocks(arena: Tensor, block_ids: Tensor, staging: Tensor) -> None:
    """Copies block ``block_ids[i]`` of every layer to ``staging[i]``, bit for bit.

    Args:
        arena: ``[num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim]``, contiguous, any
            dtype.
        block_ids: ``[n]`` int32 or int64.
        staging: ``[n, num_layers, 2, block_size, num_kv_heads, head_dim]``, contiguous, same dtype
            and device; written in place.

    Raises:
        InputError: tensors laid out otherwise.
    """
    _copy(arena, block_ids, staging, gather=True)


def scatter_blocks(staging: Tensor, block_ids: Tensor, arena: Tensor) -> None:
    """Copies ``staging[i]`` to block ``block_ids[i]`` of every layer, bit for bit.

    Args:
        staging: As for ``gather_blocks``.
        block_ids: ``[n]`` int32 or int64, none twice.
        arena: As for ``gather_blocks``; written in place.

    Raises:
        InputError: tensors laid out otherwise.
    """
    _copy(arena, block_ids, staging, gather=False)


def gather_blocks_reference(arena: Tensor, block_ids: Tensor, staging: Tensor) -> None:
    """The same as ``gather_blocks`` in torch."""
    staging.copy_(arena[:, :, block_ids.long()].permute(2, 0, 1, 3, 4, 5))


def scatter_blocks_reference(staging: Tensor, block_ids: Tensor, arena: Tensor) -> None:
    """The same as ``scatter_blocks`` in torch."""
    arena[:, :, block_ids.long()] = staging.permute(1, 2, 0, 3, 4, 5)


def copy_word(run_bytes: int) -> torch.dtype:
    """The widest integer of which a run of so many bytes consists: bits are copied, not numbers."""
    for word in (torch.int64, torch.int32, torch.int16):
        if run_bytes % word.itemsize == 0:
            return word
    return torch.int8


def copy_tile(run: int, word_bytes: int) -> int:
    """Words of a run that one program copies: a power of two that divides the run if one can."""
    divisor = run & -run
    return max(_MIN_TILE_BYTES // word_bytes, min(divisor, _MAX_TILE_BYTES // word_bytes))


def _copy(arena: Tensor, block_ids: Tensor, staging: Tensor, gather: bool) -> None:
    check_contiguous(arena=arena, staging=staging, block_ids=block_ids)
    num_layers, sides, num_blocks = arena.shape[:3]
    run_bytes = arena.stride(2) * arena.element_size()
    word = copy_word(run_bytes)
    run = run_bytes // word.itemsize
    tile = copy_tile(run, word.itemsize)
    planes = num_layers * sides
    _copy_blocks_kernel[(block_ids.shape[0] * planes * triton.cdiv(run, tile),)](
        arena.view(-1).view(word),
        staging.view(-1).view(word),
        block_ids,
        num_blocks,
        PLANES=planes,
        RUN=run,
        TILE=tile,
        GATHER=gather,
    )


@triton.jit(do_not_specialize=["num_blocks"])  # type: ignore[untyped-decorator]
def _copy_blocks_kernel(
    arena_ptr: tl.tensor,
    staging_ptr: tl.tensor,
    block_ids_ptr: tl.tensor,
    num_blocks: tl.tensor,
    PLANES: tl.constexpr,
    RUN: tl.constexpr,
    TILE: tl.constexpr,
    GATHER: tl.constexpr,
) -> None:
    # Neighbouring programs are neighbours in staging: tiles of a run, then planes, then blocks.
    tiles: tl.constexpr = (RUN + TILE - 1) // TILE
    program = tl.program_id(0)
    copied = program // tiles  # [n, PLANES], flat
    plane = (copied % PLANES).to(tl.int64)
    block_id = tl.load(block_ids_ptr + copied // PLANES).to(tl.int64)
    offsets = program % tiles * TILE + tl.arange(0, TILE)
    mask = offsets < RUN
    arena_run = arena_ptr + (plane * num_blocks + block_id) * RUN + offsets
    staging_run = staging_ptr + copied.to(tl.int64) * RUN + offsets
    if GATHER:
        tl.store(staging_run, tl.load(arena_run, mask=mask), mask=mask)
    else:
        tl.store(arena_run, tl.load(staging_run, mask=mask), mask=mask)
