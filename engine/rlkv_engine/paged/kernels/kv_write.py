"""Writes the keys and values of new tokens to their slots of a paged cache (reshape-and-cache).

One program copies a run of one token, key and value, as vLLM's ``reshape_and_cache_kernel_flash``
does (``vllm/v1/attention/ops/triton_reshape_and_cache_flash.py``).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rlkv_engine.paged.kernels.layout import check_contiguous, check_rows

#: Elements of a program at most: 16 bytes a thread of 4 warps at 16 bits.
_MAX_TILE = 1024


def write_kv(key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor) -> None:
    """Writes key and value of token t to slot ``slot_mapping[t]``; a slot below 0 is skipped.

    Args:
        key: ``[num_tokens, num_kv_heads, head_dim]``, contiguous but for the stride between tokens
            (a slice of a fused projection will do).
        value: As ``key``, with a stride of its own.
        kv_cache: ``[2, num_blocks, block_size, num_kv_heads, head_dim]``, contiguous, of the same
            dtype; written in place. No slot may occur twice.
        slot_mapping: ``[num_tokens]`` int64.

    Raises:
        InputError: tensors laid out otherwise.
    """
    check_rows(key=key, value=value)
    check_contiguous(kv_cache=kv_cache, slot_mapping=slot_mapping)
    row = kv_cache.shape[3] * kv_cache.shape[4]
    tile = write_tile(row)
    _write_kv_kernel[(key.shape[0], triton.cdiv(row, tile))](
        key,
        value,
        kv_cache,
        slot_mapping,
        key.stride(0),
        value.stride(0),
        kv_cache.shape[1] * kv_cache.shape[2],
        ROW=row,
        TILE=tile,
    )


def write_kv_reference(key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor) -> None:
    """The same in torch."""
    kept = slot_mapping >= 0
    slots = slot_mapping[kept]
    for cache, new in zip(kv_cache, (key, value), strict=True):
        cache.flatten(0, 1)[slots] = new[kept]  # [num_slots, num_kv_heads, head_dim]


def write_tile(row: int) -> int:
    """Elements that one program copies, of a token's row of ``num_kv_heads * head_dim``."""
    return min(triton.next_power_of_2(row), _MAX_TILE)


@triton.jit(do_not_specialize=["num_slots"])  # type: ignore[untyped-decorator]
def _write_kv_kernel(
    key_ptr: tl.tensor,
    value_ptr: tl.tensor,
    kv_cache_ptr: tl.tensor,
    slot_mapping_ptr: tl.tensor,
    key_stride: tl.tensor,
    value_stride: tl.tensor,
    num_slots: tl.tensor,
    ROW: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping_ptr + token)
    if slot < 0:
        return
    offsets = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = offsets < ROW
    key = tl.load(key_ptr + token * key_stride + offsets, mask=mask)
    value = tl.load(value_ptr + token * value_stride + offsets, mask=mask)
    # Offsets into the cache need 64 bits: it has more than 2^31 elements on any large GPU.
    key_row = kv_cache_ptr + slot * ROW
    tl.store(key_row + offsets, key, mask=mask)
    tl.store(key_row + num_slots.to(tl.int64) * ROW + offsets, value, mask=mask)
