"""Attention over a paged cache on a GPU, by the kernels of ``rlkv_engine.paged.kernels``."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlkv_engine.errors import InputError

# Kernel modules import triton, so they are imported where they are used: this module can be
# imported on a machine without it.
if TYPE_CHECKING:
    from rlkv_engine.paged.attention_batch import AttentionBatch
    from rlkv_engine.paged.kernels.context_splits import ContextSplits


def triton_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kv_cache: Tensor,
    batch: AttentionBatch,
    scale: float,
) -> Tensor:
    """Writes keys and values to their slots, then attends: an ``AttentionBackend``.

    Args:
        query: ``[num_tokens, num_heads, head_dim]``, decoding tokens first, then the chunks;
            float32, float16 or bfloat16. Of this and the next two the last two dimensions are
            contiguous, the first need not be.
        key: ``[num_tokens, num_kv_heads, head_dim]``.
        value: ``[num_tokens, num_kv_heads, head_dim]``.
        kv_cache: ``[2, num_blocks, block_size, num_kv_heads, head_dim]`` of this layer, same dtype,
            contiguous; written in place. What lies outside the contexts is not read.
        batch: Where each token's KV goes, and the contexts; its ``plan`` is set.
        scale: Factor of the scores.

    Returns:
        ``[num_tokens, num_heads, head_dim]``, contiguous.

    Raises:
        InputError: a head that the kernels do not take, or tensors that are not on a GPU.
    """
    from rlkv_engine.paged.kernels.decode_attention import decode_attention
    from rlkv_engine.paged.kernels.kv_write import write_kv
    from rlkv_engine.paged.kernels.prefill_attention import prefill_attention

    if batch.plan is None:
        batch.plan = _plan(query, kv_cache, batch)
    plan: _Plan = batch.plan
    num_decode = batch.num_decode
    write_kv(key, value, kv_cache, batch.slot_mapping)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if plan.decode is not None:
        decode_attention(
            query[:num_decode],
            kv_cache,
            batch.decode_block_tables,
            batch.decode_lens,
            out[:num_decode],
            scale,
            plan.decode,
        )
    if plan.prefill is not None:
        prefill_attention(
            query[num_decode:],
            kv_cache,
            batch.prefill_block_tables,
            batch.prefill_cu_seqlens,
            batch.prefill_lens,
            out[num_decode:],
            scale,
            plan.longest_chunk,
            plan.prefill,
        )
    return out


@dataclass(frozen=True, slots=True)
class _Plan:
    """Parts of the contexts, worked out once for all layers of an iteration."""

    decode: ContextSplits | None  #: None: nobody decodes
    prefill: ContextSplits | None
    longest_chunk: int


def _plan(query: Tensor, kv_cache: Tensor, batch: AttentionBatch) -> _Plan:
    from rlkv_engine.paged.kernels.decode_attention import decode_splits
    from rlkv_engine.paged.kernels.prefill_attention import prefill_splits

    num_processors, num_kv_heads = _num_processors(query), kv_cache.shape[3]
    bounds = batch.prefill_cu_seqlens_cpu
    chunk_lens = [end - start for start, end in itertools.pairwise(bounds)]
    decode = prefill = None
    if batch.num_decode > 0:
        decode = decode_splits(batch.decode_lens_cpu, num_kv_heads, num_processors)
    if batch.prefill_lens_cpu:
        group = query.shape[1] // num_kv_heads
        prefill = prefill_splits(
            chunk_lens, batch.prefill_lens_cpu, num_kv_heads, group, query.dtype, num_processors
        )
    return _Plan(decode, prefill, max(chunk_lens, default=0))


def _num_processors(tensor: Tensor) -> int:
    if tensor.is_cuda:
        properties = torch.cuda.get_device_properties(tensor.device)
        return properties.multi_processor_count
    from triton import knobs

    if not knobs.runtime.interpret:
        raise InputError(
            f"Triton attention needs tensors on a GPU, these are on {tensor.device}:"
            " use torch attention"
        )
    return 1
