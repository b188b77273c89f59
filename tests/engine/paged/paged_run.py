"""Runs a model over a context in pieces, through a paged cache with scattered blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlkv_engine.paged.attention_batch import AttentionBatch, Span
from rlkv_engine.paged.llama import Llama

BLOCK_SIZE = 16


def new_arena(model: Llama, num_blocks: int) -> Tensor:
    """An empty arena of blocks of 16 tokens, in the dtype of the model."""
    config = model.config
    shape = (config.num_layers, 2, num_blocks, BLOCK_SIZE, config.num_kv_heads, config.head_dim)
    return torch.zeros(shape, dtype=model.embedding.dtype)


def scattered_table(num_tokens: int, num_blocks: int, seed: int = 0) -> list[int]:
    """Blocks for a context, in random order."""
    generator = torch.Generator().manual_seed(seed)
    needed = -(-num_tokens // BLOCK_SIZE)
    return torch.randperm(num_blocks, generator=generator)[:needed].tolist()


def logits_in_pieces(
    model: Llama, ids: Tensor, ends: Sequence[int], arena: Tensor, table: Sequence[int]
) -> Tensor:
    """Logits of every token, ``[num_tokens, vocab_size]``.

    Args:
        model: The model.
        ids: ``[num_tokens]``.
        ends: Where each piece of the context ends. One of a single token runs as decoding, unless
            it is the first.
        arena: The cache.
        table: The blocks of the context.
    """
    pieces = []
    for start, end in zip([0, *ends], ends, strict=False):
        span = [Span(table, start, end)]
        decodes = end - start == 1 and start > 0
        batch = AttentionBatch.from_spans(
            span if decodes else [], [] if decodes else span, block_size=BLOCK_SIZE
        )
        hidden = model(ids[start:end], torch.arange(start, end), arena, batch)
        pieces.append(model.logits(hidden))
    return torch.cat(pieces)
