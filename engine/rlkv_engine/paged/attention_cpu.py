"""Attention on a CPU: compiled decoding that reads the blocks where they lie.

Gathering the blocks first, as ``attention_torch`` does, takes as long as attending to them. Prefill
is the same as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rlkv_engine.jit import jit_parallel, jit_vector
from rlkv_engine.paged.attention_batch import AttentionBatch
from rlkv_engine.paged.attention_torch import (
    PrefillChunk,
    prefill_chunks,
    prefill_into,
    torch_attention,
    write_kv,
)
from rlkv_engine.paged.threads import share_among_threads

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Plan:
    tables: Ids  # [num_decode, max_blocks]
    lens: Ids  # [num_decode]
    #: Scratch of one layer.
    scores: Tensor  # [num_decode, num_heads, longest]
    prefill: list[PrefillChunk]


def cpu_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kv_cache: Tensor,
    batch: AttentionBatch,
    scale: float,
) -> Tensor:
    """Attention of one layer; see ``AttentionBackend``. Compiled for fp32, else that of torch."""
    if query.dtype != torch.float32:
        return torch_attention(query, key, value, kv_cache, batch, scale)
    if batch.plan is None:
        batch.plan = _Plan(
            batch.decode_block_tables.numpy(),
            batch.decode_lens.numpy(),
            query.new_empty(
                batch.num_decode, query.shape[1], max(batch.decode_lens_cpu, default=0)
            ),
            prefill_chunks(batch, kv_cache),
        )
    plan: _Plan = batch.plan
    write_kv(key, value, kv_cache, batch)
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    if batch.num_decode:
        decoding = query[: batch.num_decode].contiguous()
        _attend(decoding.numpy(), kv_cache.numpy(), plan, scale, output.numpy())
    for chunk in plan.prefill:
        prefill_into(output, query, key, value, kv_cache, chunk, scale)
    return output


def _attend(query: Floats, kv_cache: Floats, plan: _Plan, scale: float, output: Floats) -> None:
    """Writes the attention of the decoding sequences into the first rows of ``output``."""
    keys, values = kv_cache
    scores = plan.scores.numpy()
    parallel = share_among_threads(scores.size * query.shape[2])
    score, weigh = (_score_parallel, _weigh_parallel) if parallel else (_score, _weigh)
    score(query, keys, plan.tables, plan.lens, np.float32(scale), scores)
    torch.softmax(plan.scores, -1, out=plan.scores)
    weigh(scores, values, plan.tables, plan.lens, output)


@jit_vector
def _score(
    query: Floats, keys: Floats, tables: Ids, lens: Ids, scale: np.float32, scores: Floats
) -> None:
    """Scores of every query head against its sequence, -inf past the end.

    Args:
        query: ``[num_decode, num_heads, head_dim]``, contiguous.
        keys: ``[num_blocks, block_size, num_kv_heads, head_dim]``, contiguous.
        tables: ``[num_decode, max_blocks]``.
        lens: ``[num_decode]``, tokens.
        scale: Factor of the scores.
        scores: ``[num_decode, num_heads, longest]``, overwritten.
    """
    for i in range(len(lens) * keys.shape[2]):
        _score_kv_head(query, keys, tables, lens, scale, scores, i)


@jit_parallel
def _score_parallel(
    query: Floats, keys: Floats, tables: Ids, lens: Ids, scale: np.float32, scores: Floats
) -> None:
    for i in numba.prange(len(lens) * keys.shape[2]):
        _score_kv_head(query, keys, tables, lens, scale, scores, i)


@jit_vector
def _score_kv_head(
    query: Floats, keys: Floats, tables: Ids, lens: Ids, scale: np.float32, scores: Floats, i: int
) -> None:
    """One KV head of one sequence, and the query heads that share it."""
    block_size, num_kv_heads = keys.shape[1], keys.shape[2]
    sequence, kv_head = i // num_kv_heads, i % num_kv_heads
    per_kv_head = query.shape[1] // num_kv_heads
    length = lens[sequence]
    for head in range(kv_head * per_kv_head, (kv_head + 1) * per_kv_head):
        for t in range(length, scores.shape[2]):
            scores[sequence, head, t] = -np.inf
    for first in range(0, length, block_size):
        block = keys[tables[sequence, first // block_size]]
        count = min(block_size, length - first)
        for head in range(kv_head * per_kv_head, (kv_head + 1) * per_kv_head):
            q = query[sequence, head]
            score = scores[sequence, head, first : first + count]
            # Four tokens at a time share what is loaded of the query.
            for t in range(0, count - 3, 4):
                k0, k1 = block[t, kv_head], block[t + 1, kv_head]
                k2, k3 = block[t + 2, kv_head], block[t + 3, kv_head]
                s0 = s1 = s2 = s3 = np.float32(0)
                for d in range(q.shape[0]):
                    s0 += q[d] * k0[d]
                    s1 += q[d] * k1[d]
                    s2 += q[d] * k2[d]
                    s3 += q[d] * k3[d]
                score[t] = s0 * scale
                score[t + 1] = s1 * scale
                score[t + 2] = s2 * scale
                score[t + 3] = s3 * scale
            for t in range(count - count % 4, count):
                k0, s0 = block[t, kv_head], np.float32(0)
                for d in range(q.shape[0]):
                    s0 += q[d] * k0[d]
                score[t] = s0 * scale


@jit_vector
def _weigh(weights: Floats, values: Floats, tables: Ids, lens: Ids, output: Floats) -> None:
    """Weighted sums of the values of each sequence.

    Args:
        weights: ``[num_decode, num_heads, longest]``.
        values: ``[num_blocks, block_size, num_kv_heads, head_dim]``, contiguous.
        tables: ``[num_decode, max_blocks]``.
        lens: ``[num_decode]``, tokens.
        output: ``[>= num_decode, num_heads, head_dim]``, the first rows overwritten.
    """
    for i in range(len(lens) * values.shape[2]):
        _weigh_kv_head(weights, values, tables, lens, output, i)


@jit_parallel
def _weigh_parallel(
    weights: Floats, values: Floats, tables: Ids, lens: Ids, output: Floats
) -> None:
    for i in numba.prange(len(lens) * values.shape[2]):
        _weigh_kv_head(weights, values, tables, lens, output, i)


@jit_vector
def _weigh_kv_head(
    weights: Floats, values: Floats, tables: Ids, lens: Ids, output: Floats, i: int
) -> None:
    """One KV head of one sequence, and the query heads that share it."""
    block_size, num_kv_heads = values.shape[1], values.shape[2]
    sequence, kv_head = i // num_kv_heads, i % num_kv_heads
    per_kv_head = output.shape[1] // num_kv_heads
    for head in range(kv_head * per_kv_head, (kv_head + 1) * per_kv_head):
        for d in range(output.shape[2]):
            output[sequence, head, d] = 0
    for first in range(0, lens[sequence], block_size):
        block = values[tables[sequence, first // block_size]]
        count = min(block_size, lens[sequence] - first)
        for head in range(kv_head * per_kv_head, (kv_head + 1) * per_kv_head):
            total = output[sequence, head]
            weight = weights[sequence, head, first : first + count]
            # Four tokens at a time: the sums are loaded and stored a quarter as often.
            for t in range(0, count - 3, 4):
                v0, v1 = block[t, kv_head], block[t + 1, kv_head]
                v2, v3 = block[t + 2, kv_head], block[t + 3, kv_head]
                w0, w1, w2, w3 = weight[t], weight[t + 1], weight[t + 2], weight[t + 3]
                for d in range(total.shape[0]):
                    total[d] += w0 * v0[d] + w1 * v1[d] + w2 * v2[d] + w3 * v3[d]
            for t in range(count - count % 4, count):
                v0, w0 = block[t, kv_head], weight[t]
                for d in range(total.shape[0]):
                    total[d] += w0 * v0[d]
