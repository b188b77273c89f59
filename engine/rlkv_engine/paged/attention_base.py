"""The one thing that differs between a CPU and a GPU: how attention reads a paged cache."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from rlkv_engine.paged.attention_batch import AttentionBatch


class AttentionBackend(Protocol):
    """Writes the KV of the tokens of a batch, then attends over the blocks of each sequence."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        batch: AttentionBatch,
        scale: float,
    ) -> Tensor:
        """Attention of one layer.

        Args:
            query: ``[num_tokens, num_heads, head_dim]``. This and the next two are views into one
                tensor: the last two dimensions are contiguous, the first is not.
            key: ``[num_tokens, num_kv_heads, head_dim]``, positions already applied.
            value: ``[num_tokens, num_kv_heads, head_dim]``.
            kv_cache: The cache of this layer, ``[2, num_blocks, block_size, num_kv_heads,
                head_dim]``, keys then values, written in place. Every number in it is finite, also
                where no token lies: slots past the end of a sequence are read and multiplied by 0.
            batch: Where each token goes and what it sees. Its ``plan`` may be set.
            scale: Factor of the scores.

        Returns:
            ``[num_tokens, num_heads, head_dim]``, contiguous.
        """
        ...
