"""Attention of chunks of new tokens over their paged contexts: causal, chunks of any length.

The query tokens of a chunk and the query heads of a KV head are the rows of one tile, so that a
short chunk still fills a tile and keys and values are read once for all heads (FlashAttention-2's
loop over the context, arXiv 2307.08691, with the rows of vLLM's ``kernel_unified_attention``,
``vllm/v1/attention/ops/triton_unified_attention.py``). What a tool returns is often a few tokens
after a long context, for which there would be as few programs as KV heads: contexts are split here
too.
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


def prefill_attention(
    query: Tensor,
    kv_cache: Tensor,
    block_tables: Tensor,
    cu_seqlens_q: Tensor,
    context_lens: Tensor,
    out: Tensor,
    scale: float,
    max_query_len: int,
    splits: ContextSplits,
) -> None:
    """Attends with the last tokens of each context over what lies before them and themselves.

    Query token j of q of a context of n tokens is its token ``n - q + j`` and sees the tokens up to
    itself.

    Args:
        query: ``[num_tokens, num_heads, head_dim]``, the chunks one after another, contiguous but
            for the stride between tokens; float32, float16 or bfloat16. ``num_heads`` is a multiple
            of ``num_kv_heads``; head h reads KV head ``h // (num_heads // num_kv_heads)``.
        kv_cache: ``[2, num_blocks, block_size, num_kv_heads, head_dim]``, contiguous, same dtype;
            the chunks' own KV is already in it.
        block_tables: ``[num_seqs, max_blocks]`` int32, contiguous rows; entries beyond a context
            are not read.
        cu_seqlens_q: ``[num_seqs + 1]`` int32, where each chunk begins, and the end of the last.
        context_lens: ``[num_seqs]`` int32, tokens with those of the chunk.
        out: As ``query``; written in place.
        scale: Factor of the scores.
        max_query_len: Tokens of the longest chunk.
        splits: Parts of the contexts (``prefill_splits``).

    Raises:
        InputError: a head that the kernels do not take, or tensors laid out otherwise.
    """
    check_rows(query=query, out=out)
    check_contiguous(kv_cache=kv_cache, block_table=block_tables[0], context_lens=context_lens)
    check_contiguous(cu_seqlens_q=cu_seqlens_q)
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads = kv_cache.shape[3]
    group = num_heads // num_kv_heads
    num_splits = splits.num_splits
    partial, lse = out, out
    if num_splits > 1:
        parts = (num_tokens, num_heads, num_splits)
        partial = torch.empty((*parts, head_dim), dtype=torch.float32, device=query.device)
        lse = torch.empty(parts, dtype=torch.float32, device=query.device)
    shape = prefill_shape(max_query_len, group, query.dtype)
    num_chunks = triton.cdiv(max_query_len, shape.rows // group)
    # Programs beyond the end of a shorter chunk end at once.
    _prefill_kernel[(num_chunks, num_kv_heads, context_lens.shape[0] * num_splits)](
        out,
        partial,
        lse,
        query,
        kv_cache,
        block_tables,
        cu_seqlens_q,
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


def prefill_attention_reference(
    query: Tensor,
    kv_cache: Tensor,
    block_tables: Tensor,
    cu_seqlens_q: Tensor,
    context_lens: Tensor,
    out: Tensor,
    scale: float,
    max_query_len: int,
    splits: ContextSplits,
) -> None:
    """The same in torch and float32, chunk by chunk; it does not need the last two."""
    block_size = kv_cache.shape[2]
    group = query.shape[1] // kv_cache.shape[3]
    bounds = cu_seqlens_q.tolist()
    for seq, length in enumerate(context_lens.tolist()):
        chunk = slice(bounds[seq], bounds[seq + 1])
        blocks = block_tables[seq, : -(-length // block_size)].long()
        context = kv_cache[:, blocks].flatten(1, 2)[:, :length].float()
        key, value = context.repeat_interleave(group, dim=2)  # [length, num_heads, head_dim]
        scores = torch.einsum("qhd,thd->hqt", query[chunk].float(), key) * scale
        tokens = torch.arange(length, device=query.device)
        positions = tokens[length - scores.shape[1] :]
        scores.masked_fill_(tokens > positions[:, None], float("-inf"))
        out[chunk] = torch.einsum("hqt,thd->qhd", scores.softmax(dim=-1), value).to(out.dtype)


def prefill_splits(
    query_lens: Sequence[int],
    context_lens: Sequence[int],
    num_kv_heads: int,
    group: int,
    dtype: torch.dtype,
    num_processors: int,
) -> ContextSplits:
    """Parts of the contexts of a batch, for a device with so many multiprocessors."""
    tokens_per_program = prefill_shape(max(query_lens), group, dtype).rows // group
    programs = [num_kv_heads * -(-length // tokens_per_program) for length in query_lens]
    return split_contexts(context_lens, programs, sum(query_lens), num_processors)


def prefill_shape(max_query_len: int, group: int, dtype: torch.dtype) -> TileShape:
    """The tile of a program, for ``group`` query heads per KV head.

    Raises:
        InputError: more heads than a program can have.
    """
    if dtype == torch.float32:
        # Without tensor cores a dot product needs far more registers.
        return TileShape(max(32, padded_rows(group)), tile=16, num_warps=8, num_stages=2)
    rows = padded_rows(max(group, min(max_query_len * group, 128)))
    return TileShape(rows, tile=32, num_warps=8 if rows > 64 else 4, num_stages=3)


@triton.jit(do_not_specialize=["table_stride", "num_blocks", "split_tokens", "num_splits"])  # type: ignore[untyped-decorator]
def _prefill_kernel(
    out_ptr: tl.tensor,
    partial_ptr: tl.tensor,  # written instead of out where SPLIT
    lse_ptr: tl.tensor,
    query_ptr: tl.tensor,
    kv_cache_ptr: tl.tensor,
    block_tables_ptr: tl.tensor,
    cu_seqlens_q_ptr: tl.tensor,
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
    queries: tl.constexpr = ROWS // GROUP  # some rows are left over where GROUP does not divide
    first_query = tl.program_id(0) * queries
    kv_head = tl.program_id(1)
    seq = (tl.program_id(2) // num_splits).to(tl.int64)
    split = tl.program_id(2) % num_splits
    chunk_start = tl.load(cu_seqlens_q_ptr + seq)
    chunk_len = tl.load(cu_seqlens_q_ptr + seq + 1) - chunk_start
    if first_query >= chunk_len:
        return
    past_len = tl.load(context_lens_ptr + seq) - chunk_len

    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, PADDED_DIM)
    tokens = rows // GROUP  # [ROWS]: of those of this program
    kept_rows = (rows < queries * GROUP) & (first_query + tokens < chunk_len)
    heads = kv_head * GROUP + rows % GROUP
    # 64 bits for the first token, 32 for what is added to it.
    first_token = (chunk_start + first_query).to(tl.int64)
    first_part = first_token * (NUM_KV_HEADS * GROUP) * num_splits
    # [first, whole)   every row sees all of it
    # [whole, end)     row r sees the tokens below visible[r]
    visible = past_len + first_query + tokens + 1
    first = split * split_tokens
    end = past_len + tl.minimum(first_query + queries, chunk_len)
    if SPLIT:
        end = tl.minimum(end, first + split_tokens)
    seen_by_all = tl.minimum(end, past_len + first_query + 1)
    whole = first + tl.maximum(seen_by_all - first, 0) // TILE * TILE
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    if first >= end:
        if SPLIT:
            parts = (tokens * (NUM_KV_HEADS * GROUP) + heads) * num_splits + split
            tl.store(lse_ptr + first_part + parts, row_max, mask=kept_rows)
        return

    kept = kept_rows[:, None] & (dims[None, :] < HEAD_DIM)
    columns = heads[:, None] * HEAD_DIM + dims[None, :]
    query_ptr += first_token * query_stride
    offsets = tokens[:, None] * query_stride + columns
    query = tl.load(query_ptr + offsets, mask=kept, other=0.0).to(COMPUTE)
    key_ptr = kv_cache_ptr + kv_head * HEAD_DIM
    value_ptr = key_ptr + num_blocks.to(tl.int64) * (BLOCK_SIZE * NUM_KV_HEADS * HEAD_DIM)
    table_ptr = block_tables_ptr + seq * table_stride
    acc = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    row_sum = tl.zeros([ROWS], tl.float32)
    block_ids = load_block_ids(table_ptr, first, end, TILE, BLOCK_SIZE)
    for start in range(first, whole, TILE):
        next_ids = load_block_ids(table_ptr, start + TILE, end, TILE, BLOCK_SIZE)
        acc, row_max, row_sum = attend_tile(
            query, acc, row_max, row_sum, start, end, visible,
            key_ptr, value_ptr, block_ids, scale_log2,
            False, TILE, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM, PADDED_DIM, COMPUTE,
        )  # fmt: skip
        block_ids = next_ids
    for start in range(whole, end, TILE):
        next_ids = load_block_ids(table_ptr, start + TILE, end, TILE, BLOCK_SIZE)
        acc, row_max, row_sum = attend_tile(
            query, acc, row_max, row_sum, start, end, visible,
            key_ptr, value_ptr, block_ids, scale_log2,
            True, TILE, BLOCK_SIZE, NUM_KV_HEADS, HEAD_DIM, PADDED_DIM, COMPUTE,
        )  # fmt: skip
        block_ids = next_ids

    if SPLIT:
        # Worked out again: kept over the loop it would cost 60 registers.
        parts = (tokens * (NUM_KV_HEADS * GROUP) + heads) * num_splits + split  # [ROWS]
        store_part(
            partial_ptr + first_part * HEAD_DIM, lse_ptr + first_part, parts,
            acc, row_max, row_sum, kept_rows, HEAD_DIM, PADDED_DIM,
        )  # fmt: skip
    else:
        attended = (acc / row_sum[:, None]).to(out_ptr.dtype.element_ty)
        out_ptr += first_token * out_stride
        tl.store(out_ptr + (tokens[:, None] * out_stride + columns), attended, mask=kept)
