"""Runs the kernels beside their references; prints how far they differ, as JSON.

Started by ``test_kernels.py`` in a process of its own: with ``TRITON_INTERPRET=1``, which triton
reads when it is imported, or for the GPU with the argument ``cuda``.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlkv_engine.paged.attention_batch import AttentionBatch
from rlkv_engine.paged.attention_triton import triton_attention
from rlkv_engine.paged.kernels import (
    block_copy,
    decode_attention,
    kv_write,
    prefill_attention,
    reduce_splits,
    tier_copy,
)
from rlkv_engine.paged.kernels.context_splits import ContextSplits
from tests.engine.paged.kernels import cases
from tests.engine.paged.kernels.cases import AttentionCase, CopyCase, ReduceCase, WriteCase

NAN = float("nan")


def largest_error(actual: Tensor, expected: Tensor) -> float:
    """Relative where the expected number is larger than 1; NaN if either is NaN anywhere."""
    difference = (actual.double() - expected.double()).abs()
    return float((difference / expected.double().abs().clamp(min=1)).max())


def num_different(actual: Tensor, expected: Tensor) -> float:
    """Elements that differ in a bit."""
    words = {4: torch.int32, 2: torch.int16}[actual.element_size()]
    return float((actual.view(words) != expected.view(words)).sum())


def write(case: WriteCase) -> float:
    dtype = getattr(torch, case.dtype)
    cache = torch.randn(2, 5, 4, case.num_kv_heads, case.head_dim).to(dtype)
    before = cache.clone()
    fused = torch.randn(case.num_tokens, 3 * case.num_kv_heads, case.head_dim).to(dtype)
    key = fused[:, case.num_kv_heads : 2 * case.num_kv_heads]
    value = fused[:, : case.num_kv_heads].contiguous()
    slots = torch.randperm(20)[: case.num_tokens]
    slots[torch.randperm(case.num_tokens)[: case.num_skipped]] = -1
    expected = cache.clone()
    kv_write.write_kv(key, value, cache, slots)
    kv_write.write_kv_reference(key, value, expected, slots)
    written = num_different(expected, before) > 0
    assert written == (case.num_skipped < case.num_tokens), "the reference does nothing"
    return num_different(cache, expected)


def copy(case: CopyCase, gather: bool) -> float:
    shape = (case.block_size, case.num_kv_heads, case.head_dim)
    dtype = getattr(torch, case.dtype)
    arena = torch.randn(case.num_layers, 2, 9, *shape).to(dtype)
    staging = torch.randn(case.num_copied, case.num_layers, 2, *shape).to(dtype)
    arena.view(-1)[::7] = NAN
    block_ids = torch.randperm(9)[: case.num_copied]
    if gather:
        expected = staging.clone()
        block_copy.gather_blocks(arena, block_ids, staging)
        block_copy.gather_blocks_reference(arena, block_ids, expected)
        return num_different(staging, expected)
    expected = arena.clone()
    block_copy.scatter_blocks(staging, block_ids.int(), arena)
    block_copy.scatter_blocks_reference(staging, block_ids, expected)
    return num_different(arena, expected)


def change_tier(case: CopyCase, out: bool) -> float:
    """Both tiers, whole, beside the reference: nothing else may be written."""
    shape = (case.block_size, case.num_kv_heads, case.head_dim)
    dtype = getattr(torch, case.dtype)
    arena = torch.randn(case.num_layers, 2, 9, *shape).to(dtype)
    host = torch.randn(11, case.num_layers, 2, *shape, device="cpu").to(dtype)
    if arena.is_cuda:
        host = host.pin_memory()
    arena.view(-1)[::7] = NAN
    expected_arena, expected_host = arena.clone(), host.clone()
    device_ids = torch.randperm(9)[: case.num_copied].int()
    host_ids = torch.randperm(11)[: case.num_copied].int()
    tier_copy.copy_between_tiers(arena, host, device_ids, host_ids, out=out)
    tier_copy.copy_between_tiers_reference(
        expected_arena, expected_host, device_ids, host_ids, out=out
    )
    if arena.is_cuda:
        torch.cuda.synchronize()
    return num_different(arena, expected_arena) + num_different(host, expected_host)


def reduce(case: ReduceCase) -> float:
    partial_ = torch.randn(2, 3, case.num_splits, case.head_dim)
    lse = 5 * torch.randn(2, 3, case.num_splits)
    lse[0, 1:, 1:] = -torch.inf
    partial_[lse == -torch.inf] = NAN
    out = torch.empty(2, 3, case.head_dim, dtype=getattr(torch, case.dtype))
    expected = torch.empty_like(out)
    reduce_splits.reduce_splits(partial_, lse, out)
    reduce_splits.reduce_splits_reference(partial_, lse, expected)
    return largest_error(out, expected)


def paged(context_lens: tuple[int, ...], case: AttentionCase) -> tuple[Tensor, Tensor]:
    """A cache that is NaN outside the contexts, and its tables, padded with a block of NaN."""
    blocks = [-(-length // case.block_size) for length in context_lens]
    num_blocks = sum(blocks) + 1
    shape = (2, num_blocks, case.block_size, case.num_kv_heads, case.head_dim)
    cache = torch.full(shape, NAN)
    ids = torch.randperm(num_blocks)
    tables = torch.full((len(blocks), max(blocks) + 1), int(ids[-1]), dtype=torch.int32)
    ends = itertools.accumulate(blocks)
    for row, length, count, end in zip(tables, context_lens, blocks, ends, strict=True):
        ids_of_row = ids[end - count : end]
        row[:count] = ids_of_row
        tokens = torch.arange(length)
        slots = ids_of_row[tokens // case.block_size] * case.block_size + tokens % case.block_size
        cache.flatten(1, 2)[:, slots] = torch.randn(2, length, *shape[3:])
    return cache.to(getattr(torch, case.dtype)), tables


def attention(case: AttentionCase, wrong_table: bool = False) -> float:
    cache, tables = paged(case.context_lens, case)
    lens = torch.tensor(case.context_lens, dtype=torch.int32)
    num_tokens = sum(case.query_lens) or len(case.context_lens)
    num_heads = case.group * case.num_kv_heads
    # A slice of a wider tensor, as from a fused projection.
    wide = torch.randn(num_tokens, num_heads + 2, case.head_dim).to(cache.dtype)
    query = wide[:, :num_heads]
    out, expected = torch.empty(2, *query.shape, dtype=query.dtype)
    longest = max(case.context_lens)
    split_tokens = case.split_tokens or longest
    splits = ContextSplits(split_tokens, -(-longest // split_tokens))
    scale = case.head_dim**-0.5
    used = tables
    if wrong_table:
        used = tables.clone()
        used[0, 0] = tables[1, 0]
    if case.query_lens:
        bounds = torch.tensor([0, *itertools.accumulate(case.query_lens)], dtype=torch.int32)
        most = max(case.query_lens)
        prefill_attention.prefill_attention(
            query, cache, used, bounds, lens, out, scale, most, splits
        )
        prefill_attention.prefill_attention_reference(
            query, cache, tables, bounds, lens, expected, scale, most, splits
        )
    else:
        decode_attention.decode_attention(query, cache, used, lens, out, scale, splits)
        decode_attention.decode_attention_reference(
            query, cache, tables, lens, expected, scale, splits
        )
    return largest_error(out, expected)


def batch_of(
    tables: Tensor,
    context_lens: Sequence[int],
    query_lens: Sequence[int],
    num_decode: int,
    block_size: int,
) -> AttentionBatch:
    lens = torch.tensor(context_lens, dtype=torch.int32)
    bounds = [0, *itertools.accumulate(query_lens[num_decode:])]
    slots = []
    for table, length, new in zip(tables, context_lens, query_lens, strict=True):
        tokens = torch.arange(length - new, length)
        slots.append(table[tokens // block_size].long() * block_size + tokens % block_size)
    return AttentionBatch(
        slot_mapping=torch.cat(slots),
        num_decode=num_decode,
        decode_block_tables=tables[:num_decode],
        decode_lens=lens[:num_decode],
        prefill_block_tables=tables[num_decode:],
        prefill_cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        prefill_lens=lens[num_decode:],
        decode_lens_cpu=list(context_lens[:num_decode]),
        prefill_lens_cpu=list(context_lens[num_decode:]),
        prefill_cu_seqlens_cpu=bounds,
    )


def backend(decode_lens: tuple[int, ...], prefills: tuple[tuple[int, int], ...]) -> float:
    """Pairs of prefills: tokens of context, tokens of the chunk."""
    case = AttentionCase("float32", 64, 3, (), num_kv_heads=2)
    context_lens = decode_lens + tuple(length for length, _ in prefills)
    query_lens = [1] * len(decode_lens) + [chunk for _, chunk in prefills]
    cache, tables = paged(context_lens, case)
    batch = batch_of(tables, context_lens, query_lens, len(decode_lens), case.block_size)
    fused = torch.randn(sum(query_lens), 10, 64)
    query, key, value = fused[:, :6], fused[:, 6:8], fused[:, 8:]
    expected_cache = cache.clone()
    out = triton_attention(query, key, value, cache, batch, 0.125)

    kv_write.write_kv_reference(key, value, expected_cache, batch.slot_mapping)
    assert num_different(cache, expected_cache) == 0
    expected = torch.empty_like(out)
    bounds = torch.tensor([0, *itertools.accumulate(query_lens)], dtype=torch.int32)
    lens = torch.tensor(context_lens, dtype=torch.int32)
    none = ContextSplits(1, 1)
    prefill_attention.prefill_attention_reference(
        query, expected_cache, tables, bounds, lens, expected, 0.125, max(query_lens), none
    )
    return largest_error(out, expected)


def main(device: str = "cpu") -> None:
    torch.set_num_threads(1)
    torch.set_default_device(device)
    runs: dict[str, Callable[[], float]] = {}

    def add(kind: str, run: Callable[..., float], named: Mapping[str, Any], *rest: Any) -> None:
        runs.update({f"{kind}: {name}": partial(run, case, *rest) for name, case in named.items()})

    add("write", write, cases.WRITES)
    add("gather", copy, cases.COPIES, True)
    add("scatter", copy, cases.COPIES, False)
    add("out", change_tier, cases.TIER_COPIES, True)
    add("in", change_tier, cases.TIER_COPIES, False)
    add("reduce", reduce, cases.REDUCES)
    add("decode", attention, cases.DECODES)
    add("prefill", attention, cases.PREFILLS)
    add("backend", lambda case: backend(*case), cases.BACKENDS)
    add("wrong table", attention, cases.WRONG_TABLES, True)
    errors = {}
    for name, run in runs.items():
        torch.manual_seed(0)
        errors[name] = run()
    print(json.dumps(errors))


if __name__ == "__main__":
    main(*sys.argv[1:])
