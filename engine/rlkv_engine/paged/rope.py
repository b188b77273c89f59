"""Rotary position embeddings (https://arxiv.org/abs/2104.09864), one complex product per layer.

Checkpoints keep the two numbers that are rotated together half a head apart. We move them next to
each other when we load the weights of query and key: the scores stay the same, as both are permuted
alike, and a rotation is then one product of complex numbers instead of six operations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlkv_engine.paged.model_config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Radians per position of each pair, ``[head_dim / 2]`` fp32, stretched as ``rope`` says."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequency = 1.0 / rope.theta**exponent
    if rope.rope_type == "linear":
        return frequency / rope.factor
    if rope.rope_type == "llama3":
        return _llama3(rope, frequency)
    return frequency


def _llama3(rope: RopeConfig, frequency: Tensor) -> Tensor:
    """Slow pairs are stretched, fast ones kept, those between blended (Llama 3.1).

    Source: ``apply_scaling`` in github.com/meta-llama/llama-models, ``llama3/model.py``.
    """
    wavelength = 2 * math.pi / frequency
    rotations = rope.original_max_position_embeddings / wavelength
    kept = (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = kept.clamp(0, 1)
    return (1 - kept) * frequency / rope.factor + kept * frequency


def rotations(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Unit complex numbers that turn the pairs of each token, ``[num_tokens, 1, head_dim / 2]``."""
    angle = positions.float()[:, None, None] * frequencies
    return torch.polar(torch.ones_like(angle), angle)


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Turns ``[num_tokens, num_heads, head_dim]``, whose pairs lie side by side; fp32 in place."""
    pairs = heads.float().view(*heads.shape[:-1], -1, 2)  # fp32 stays the same memory
    torch.view_as_complex(pairs).mul_(rotation)
    return pairs.flatten(-2).to(heads.dtype)


def side_by_side(weight: Tensor, head_dim: int) -> Tensor:
    """Reorders the rows of a projection of query or key from halves of a head to pairs.

    Args:
        weight: ``[num_heads * head_dim, ...]`` as checkpoints have it.
        head_dim: Rows of one head.
    """
    halves = weight.view(-1, 2, head_dim // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)
