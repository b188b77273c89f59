"""A model that shows every misplaced byte of KV, and needs no time.

It stores each token in every layer of its KV. The next token is a number made of what is stored at
all positions of the context, as the block tables lead there: one wrong block, layer or position
changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlkv_engine.paged.attention_batch import AttentionBatch

VOCAB_SIZE = 251
NUM_LAYERS = 2


def next_token(tokens: Sequence[int]) -> int:
    """The token that follows, from nothing but the tokens."""
    return sum((i + 1) * (token + 1) for i, token in enumerate(tokens)) % VOCAB_SIZE


class SummingModel:
    dtype = torch.float32

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(
        self, input_ids: Tensor, positions: Tensor, arena: Tensor, batch: AttentionBatch
    ) -> Tensor:
        block_size = arena.shape[3]
        blocks, offsets = batch.slot_mapping // block_size, batch.slot_mapping % block_size
        # Every token is written before any is read, as in a layer of a transformer.
        arena[:, :, blocks, offsets] = (input_ids + 1).float()[None, None, :, None, None]
        next_tokens = [
            self._read(arena, table, end)
            for table, end in zip(batch.decode_block_tables, batch.decode_lens_cpu, strict=True)
        ]
        spans = zip(
            batch.prefill_block_tables,
            batch.prefill_lens_cpu,
            batch.prefill_cu_seqlens_cpu[:-1],
            batch.prefill_cu_seqlens_cpu[1:],
            strict=True,
        )
        for table, end, first, last in spans:
            # Nobody asks what follows a token in the middle of a prompt.
            next_tokens += [VOCAB_SIZE] * (last - first - 1) + [self._read(arena, table, end)]
        return torch.tensor(next_tokens, device=arena.device)[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(hidden[:, 0], VOCAB_SIZE + 1).float()

    def _read(self, arena: Tensor, table: Tensor, length: int) -> int:
        block_size = arena.shape[3]
        position = np.arange(length)
        blocks = table.cpu().numpy()[position // block_size]
        # [num_layers, 2, length, 1, 2]: all of it the same number at each position, or a wrong one
        if arena.is_cuda:
            places = torch.from_numpy(np.stack([blocks, position % block_size])).to(arena.device)
            stored = arena[:, :, places[0], places[1]].cpu().numpy()
        else:
            stored = arena.numpy()[:, :, blocks, position % block_size]
        numbers = stored[0, 0, :, 0, 0]
        if np.any(stored != numbers[:, None, None]):
            return VOCAB_SIZE
        return int(((position + 1) * numbers.astype(np.int64)).sum() % VOCAB_SIZE)


@dataclass(frozen=True)
class SummingConfig:
    vocab_size: int = VOCAB_SIZE
    max_position_embeddings: int = 4096

    num_layers: int = NUM_LAYERS
    num_kv_heads: int = 1
    head_dim: int = 2


@dataclass(frozen=True)
class SummingLoaded:
    model: SummingModel
    config: SummingConfig
    name: str = "summing"


def summing_model(max_tokens: int = 4096, device: str = "cpu") -> SummingLoaded:
    config = SummingConfig(max_position_embeddings=max_tokens)
    return SummingLoaded(SummingModel(torch.device(device)), config)
