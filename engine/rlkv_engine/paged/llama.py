"""A decoder of the Llama family over a paged KV cache, in plain torch.

Source of the computation: ``modeling_llama.py`` and ``modeling_qwen2.py`` of transformers, against
which the tests compare the logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlkv_engine.paged.attention_base import AttentionBackend
from rlkv_engine.paged.attention_batch import AttentionBatch
from rlkv_engine.paged.model_config import ModelConfig
from rlkv_engine.paged.projection import add_projection, project
from rlkv_engine.paged.rms_norm import rms_norm
from rlkv_engine.paged.rope import inverse_frequencies, rotate, rotations


class DecoderLayer(nn.Module):
    """Attention and a gated feed-forward network, each added to the hidden state."""

    qkv_bias: nn.Parameter | None

    def __init__(
        self,
        config: ModelConfig,
        attention: AttentionBackend,
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__()
        self.config = config
        self.attention = attention
        self.scale = config.head_dim**-0.5
        hidden, qkv = config.hidden_size, config.qkv_size
        attended = config.num_heads * config.head_dim

        self.attention_norm = _empty(hidden, dtype=dtype, device=device)
        # Query, key and value side by side: one product instead of three.
        self.qkv = _empty(qkv, hidden, dtype=dtype, device=device)
        self.qkv_bias = _empty(qkv, dtype=dtype, device=device) if config.qkv_bias else None
        self.output = _empty(hidden, attended, dtype=dtype, device=device)
        self.mlp_norm = _empty(hidden, dtype=dtype, device=device)
        self.gate_up = _empty(2 * config.intermediate_size, hidden, dtype=dtype, device=device)
        self.down = _empty(hidden, config.intermediate_size, dtype=dtype, device=device)

    def forward(
        self, hidden: Tensor, rotation: Tensor, kv_cache: Tensor, batch: AttentionBatch
    ) -> None:
        """Changes ``hidden``, ``[num_tokens, hidden_size]``, and ``kv_cache`` in place."""
        config = self.config
        rotated = config.num_heads + config.num_kv_heads
        normed = rms_norm(hidden, self.attention_norm, config.rms_norm_eps)
        qkv = project(normed, self.qkv, self.qkv_bias)
        heads = qkv.view(len(qkv), -1, config.head_dim)  # [num_tokens, all heads, head_dim]
        query, key = rotate(heads[:, :rotated], rotation).tensor_split((config.num_heads,), 1)
        attended = self.attention(query, key, heads[:, rotated:], kv_cache, batch, self.scale)
        add_projection(hidden, attended.flatten(1), self.output)

        normed = rms_norm(hidden, self.mlp_norm, config.rms_norm_eps)
        gate, up = project(normed, self.gate_up).chunk(2, dim=1)
        add_projection(hidden, F.silu(gate).mul_(up), self.down)


class Llama(nn.Module):
    """The whole decoder; its weights are uninitialised until something fills them.

    Args:
        config: The shape of the model.
        attention: How attention reads the cache on this device.
        dtype: Of weights, activations and cache.
        device: Where everything lies.
    """

    lm_head: nn.Parameter | None

    def __init__(
        self,
        config: ModelConfig,
        attention: AttentionBackend,
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__()
        self.config = config
        self.embedding = _empty(config.vocab_size, config.hidden_size, dtype=dtype, device=device)
        self.layers = nn.ModuleList(
            DecoderLayer(config, attention, dtype, device) for _ in range(config.num_layers)
        )
        self.norm = _empty(config.hidden_size, dtype=dtype, device=device)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else _empty(config.vocab_size, config.hidden_size, dtype=dtype, device=device)
        )
        self.register_buffer(
            "frequencies",
            inverse_frequencies(config.rope, config.head_dim).to(device),
            persistent=False,
        )

    frequencies: Tensor  # [head_dim / 2] fp32

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and cache."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self.embedding.device

    @torch.inference_mode()
    def forward(
        self, input_ids: Tensor, positions: Tensor, arena: Tensor, batch: AttentionBatch
    ) -> Tensor:
        """One iteration: writes the KV of its tokens into ``arena``.

        Args:
            input_ids: ``[num_tokens]`` int64, in the order of ``batch``.
            positions: ``[num_tokens]`` int64, the place of each token in its sequence.
            arena: ``[num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim]``.
            batch: Where each token goes and what it sees.

        Returns:
            The hidden states before the last projection, ``[num_tokens, hidden_size]``.
        """
        hidden = F.embedding(input_ids, self.embedding)
        rotation = rotations(positions, self.frequencies)
        for layer, kv_cache in zip(self.layers, arena.unbind(0), strict=True):
            layer(hidden, rotation, kv_cache, batch)
        return rms_norm(hidden, self.norm, self.config.rms_norm_eps)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, ``[n, hidden_size] -> [n, vocab_size]``."""
        return project(hidden, self.embedding if self.lm_head is None else self.lm_head)


def _empty(*shape: int, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """An uninitialised parameter that is never trained."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
