"""Which attention a device has."""

from __future__ import annotations

import torch

from rlkv_engine.paged.attention_base import AttentionBackend


def default_attention(device: torch.device) -> AttentionBackend:
    """Triton kernels on a GPU; elsewhere compiled decoding, and torch for the rest."""
    if device.type == "cuda":
        from rlkv_engine.paged.attention_triton import triton_attention

        return triton_attention
    from rlkv_engine.paged.attention_cpu import cpu_attention

    return cpu_attention
