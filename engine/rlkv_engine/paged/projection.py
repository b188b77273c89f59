"""Matrix products of a decoder with its weights ``[out, in]``: nearly all of its time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlkv_engine.paged.skinny_matmul import MAX_ROWS, skinny_matmul
from rlkv_engine.paged.threads import share_among_threads


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, ``[num_tokens, in] -> [num_tokens, out]``."""
    if not _is_skinny(x):
        return F.linear(x, weight, bias)
    result = x.new_empty(x.shape[0], weight.shape[0])
    if bias is not None:
        result.copy_(bias)
    _skinny(x, weight, result, accumulate=bias is not None)
    return result


def add_projection(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """Adds ``x @ weight.T`` to ``total``, ``[num_tokens, out]``, in place."""
    if _is_skinny(x):
        _skinny(x, weight, total, accumulate=True)
    else:
        total.addmm_(x, weight.t())


def _is_skinny(x: Tensor) -> bool:
    """Whether our own product is faster than the library's."""
    return x.shape[0] <= MAX_ROWS and x.device.type == "cpu" and x.dtype == torch.float32


def _skinny(x: Tensor, weight: Tensor, result: Tensor, *, accumulate: bool) -> None:
    skinny_matmul(
        x.contiguous().numpy(),
        weight.numpy(),
        result.numpy(),
        accumulate=accumulate,
        parallel=share_among_threads(x.shape[0] * weight.numel()),
    )
