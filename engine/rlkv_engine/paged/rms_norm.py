"""Root-mean-square normalisation (https://arxiv.org/abs/1910.07467)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rlkv_engine.jit import jit_vector

Array = npt.NDArray[np.float32]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x`` over the root of its mean square, times ``weight``; ``[num_tokens, hidden_size]``.

    torch has one kernel for it on a GPU, and six operations on a CPU, which for a few tokens take
    ten times as long as the arithmetic.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)
    result = torch.empty_like(x)
    _rms_norm(x.numpy(), weight.numpy(), eps, result.numpy())
    return result


@jit_vector
def _rms_norm(x: Array, weight: Array, eps: float, result: Array) -> None:
    """Rows ``[num_tokens, hidden_size]``, contiguous; ``result`` is overwritten."""
    for token in range(x.shape[0]):
        row, normed = x[token], result[token]
        squares = np.float32(0)
        for i in range(row.shape[0]):
            squares += row[i] * row[i]
        factor = np.float32(1 / math.sqrt(squares / row.shape[0] + eps))
        for i in range(row.shape[0]):
            normed[i] = row[i] * factor * weight[i]
