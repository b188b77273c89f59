"""What one iteration computes, as attention reads it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Tokens of one iteration, flattened: decoding sequences, a token each, then prompt chunks.

    Tables are padded with block 0. What ends in ``_cpu`` is the same as without, where reading it
    waits for no device.
    """

    slot_mapping: Tensor  # [num_tokens] int64: block * block_size + offset, where its KV goes
    num_decode: int
    decode_block_tables: Tensor  # [num_decode, max_blocks] int32
    decode_lens: Tensor  # [num_decode] int32, tokens with that of this iteration
    prefill_block_tables: Tensor  # [num_prefill, max_blocks] int32
    prefill_cu_seqlens: Tensor  # [num_prefill + 1] int32, offsets behind the decodes
    prefill_lens: Tensor  # [num_prefill] int32, tokens with this chunk
    decode_lens_cpu: list[int]
    prefill_lens_cpu: list[int]
    prefill_cu_seqlens_cpu: list[int]
