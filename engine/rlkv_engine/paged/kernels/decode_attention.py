"""Attention of one new token per sequence over its paged context, split over the context.

FlashDecoding (Dao et al., https://pytorch.org/blog/flash-decoding/): each part of a context is a
program of its own, and ``reduce_splits`` puts the parts together. All query heads of a KV head are
rows of one tile, so that keys and values are read once, as in vLLM's ``kernel_unified_attention``
(``vllm/v1/attention/ops/triton_unified_attention.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlkv_engine.paged.kernels.context_splits import ContextSplits, split_contexts
from rlkv_engine.paged.kernels.layout import check_contiguous, check_rows
from rlkv_engine.paged.kernels.paged_tile import (
    LOG2_E,
    TileShape,
    attend_tile,
    compute_dtype,
    load_block_ids,
    padded_head_dim,
    padded_rows,
    store_part,
)
from rlkv_engine.paged.kernels.reduce_splits import reduce_splits


def decode_attention(
    query: Tensor,
    kv_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    out: Tensor,
    scale: float,
    splits: ContextSplits,
) -> None:
    """Attends with one query token per sequence over all tokens of its context.

    Args:
        query: ``[num_seqs, num_heads, head_dim]``, contiguous but for the stride between tokens;
            float32, float16 or bfloat16. ``num_heads`` is a multiple of ``num_kv_heads``; head h
            reads KV head ``h // (num_heads // num_kv_heads)``.
        kv_cache: ``[2, num_blocks, block_size, num_kv_heads, head_dim]``, contiguous, same dtype;
            the new token's KV is already in it.
        block_tables: ``[num_seqs, max_blocks]`` int32, contiguous rows; entries beyond a context
            are not read.
        context_lens: ``[num_seqs]`` int32, each at least 1.
        out: As ``query``; written in place.
        scale: Factor of the scores.
        splits: Parts of the contexts (``decode_splits``).

    Raises:
        InputError: a head that the kernels do not take, or tensors laid out otherwise.
    """
    check_rows(query=query, out=out)
    check_contiguous(kv_cache=kv_cache, block_table=block_tables[0], context_lens=context_lens)
    num_seqs, num_heads, head_dim = query.shape
    num_kv_heads = kv_cache.shape[3]
    group = num_heads // num_kv_heads
    num_splits = splits.num_splits
    partial, lse = out, out
    if num_splits > 1:
        parts = (num_seqs, num_heads, num_splits)
        partial = torch.empty((*parts, head_dim), dtype=torch.float32, device=query.device)
        lse = torch.empty(parts, dtype=torch.float32, device=query.device)
    shape = decode_shape(group, query.dtype)
    _decode_kernel[(num_seqs, num_kv_heads, num_splits)](
        out,
        partial,
        lse,
        query,
        kv_cache,
        block_tables,
        context_lens,
        query.stride(0),
        out.stride(0),
        block_tables.stride(0),
        kv_cache.shape[1],
        splits.split_tokens,
        num_splits,
        scale * LOG2_E,
        SPLIT=num_splits > 1,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        ROWS=shape.rows,
        TILE=shape.tile,
        BLOCK_SIZE=kv_cache.shape[2],
        HEAD_DIM=head_dim,
        PADDED_DIM=padded_head_dim(head_dim),
        COMPUTE=compute_dtype(query.dtype),
        num_warps=shape.num_warps,
        num_stages=shape.num_stages,
    )
    if num_splits > 1:
        reduce_splits(partial, lse, out)


def decode_attention_reference(
    query: Tensor,
    kv_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    out: Tensor,
    scale: float,
    splits: ContextSplits,
) -> None:
    """The same in torch and float32, sequence by sequence; it has no use for ``splits``."""
    block_size = kv_cache.shape[2]
    group = query.shape[1] // kv_cache.shape[3]
    for seq, length in enumerate(context_lens.tolist()):
        blocks = block_tables[seq, : -(-length // block_size)].long()
        context = kv_cache[:, blocks].flatten(1, 2)[:, :length].float()
        key, value = context.repeat_interleave(group, dim=2)  # [length, num_heads, head_dim]
        scores = torch.einsum("hd,thd->ht", query[seq].float(), key) * scale
        out[seq] = torch.einsum("ht,thd->hd", scores.softmax(dim=-1), value).to(out.dtype)


def decode_splits(
    context_lens: Sequence[int], num_kv_heads: int, num_processors: int
) -> ContextSplits:
    """Parts of the contexts of a batch, for a device with so many multiprocessors."""
    num_seqs = len(context_lens)
    return split_contexts(context_lens, [num_kv_heads] * num_seqs, num_seqs, num_processors)


def decode_shape(group: int, dtype: torch.dtype) -> TileShape:
    """The tile of a program, for ``group`` query heads per KV head.

    Raises:
        InputError: more heads than a program can have.
    """
    if dtype == torch.float32:
        # Without tensor cores a dot product needs far more registers.
        return TileShape(padded_rows(group), tile=16, num_warps=8, num_stages=2)
    return TileShape(padded_rows(group), tile=32, num_warps=4, num_stages=3)


@triton.jit(do_not_specialize=["table_stride", "num_blocks", "split_tokens", "num_splits"])  # type: ignore[untyped-decorator]
def _decode_kernel(
    out_ptr: tl.tensor,
    partial_ptr: tl.tensor,  # written instead of out where SPLIT
    lse_ptr: tl.tensor,
    query_ptr: tl.tensor,
    kv_cache_ptr: tl.tensor,
    block_tables_ptr: tl.tensor,
    context_lens_ptr: tl.tensor,
    query_stride: tl.tensor,
    out_stride: tl.tensor,
    table_stride: tl.tensor,
    num_blocks: tl.tensor,
    split_tokens: tl.tensor,
    num_splits: tl.tensor,
    scale_log2: tl.tensor,
    SPLIT: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    COMPUTE: tl.constexpr,
) -> None:
    seq = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, PADDED_DIM)
    heads = kv_head * GROUP + rows
    first_part = seq * (NUM_KV_HEADS * GROUP) * num_splits
    first = split * split_tokens
    end = tl.minimum(first + split_tokens, tl.load(context_lens_ptr + seq))
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    if first >= end:
        if SPLIT:
            parts = heads * num_splits + split
            tl.store(lse_ptr + first_part + parts, row_max, mask=rows < GROUP)
        return

    kept = (rows[:, None] < GROUP) & (dims[None, :] < HEAD_DIM)
    columns = heads[:, None] * HEAD_DIM + dims[None, :]
    query = tl.load(query_ptr + seq * query_stride + columns, mask=kept, other=0.0).to(COMPUTE)
    key_ptr = kv_cache_ptr + kv_head * HEAD_DIM
    value_ptr = key_ptr + num_blocks.to(tl.int64) * (BLOCK_SIZE * NUM_KV_HEADS * HEAD_DIM)
    table_ptr = block_tables_ptr + seq * table_stride
    acc = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    visible = tl.zeros([ROWS], tl.int32) + end
    whole = first + (end - first) // TILE * TILE
    block_ids = load_block_ids(table_ptr, first, end, TILE, BLOCK_SIZE)
    for start in range(first, whole, TILE):
        next_ids = load_block_ids(table_ptr, start + TILE, end, TILE, BLOCK_SIZE)
        acc, row_max, row_sum = attend_tile(
            query, acc, row_max, row_sum, start, end, visible,
            key_ptr, value_ptr, block_ids, scale_log2,
            False, TILE, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM, PADDED_DIM, COMPUTE,
        )  # fmt: skip
        block_ids = next_ids
    if whole < end:
        acc, row_max, row_sum = attend_tile(
            query, acc, row_max, row_sum, whole, end, visible,
            key_ptr, value_ptr, block_ids, scale_log2,
            True, TILE, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM, PADDED_DIM, COMPUTE,
        )  # fmt: skip

    if SPLIT:
        parts = heads * num_splits + split  # [ROWS]
        store_part(
            partial_ptr + first_part * HEAD_DIM, lse_ptr + first_part, parts,
            acc, row_max, row_sum, rows < GROUP, HEAD_DIM, PADDED_DIM,
        )  # fmt: skip
    else:
        attended = (acc / row_sum[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + seq * out_stride + columns, attended, mask=kept)
