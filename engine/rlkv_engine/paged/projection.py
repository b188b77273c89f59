"""Matrix products of a decoder with its weights ``[out, in]``: nearly all of its time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlkv_engine.paged.skinny_matmul import MAX_ROWS, skinny_matmul
from rlkv_engine.paged.threads import share_among_threads

_HAS_ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, ``[num_tokens, in] -> [num_tokens, out]``."""
    if not _is_skinny(x):
        return _wide(x, weight, bias)
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
        total.add_(_wide(x, weight, None))


def _is_skinny(x: Tensor) -> bool:
    """Whether our own product is faster than the library's."""
    return x.shape[0] <= MAX_ROWS and x.device.type == "cpu" and x.dtype == torch.float32


def _wide(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.device.type == "cpu" and x.dtype == torch.float32 and _HAS_ONEDNN:
        # oneDNN, as TorchInductor calls it. For float32 F.linear takes MKL, which has 0.5 to 0.75
        # of its speed on a processor that is not Intel's (64 to 512 rows, AMD EPYC).
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return F.linear(x, weight, bias)


def _skinny(x: Tensor, weight: Tensor, result: Tensor, *, accumulate: bool) -> None:
    skinny_matmul(
        x.contiguous().numpy(),
        weight.numpy(),
        result.numpy(),
        accumulate=accumulate,
        parallel=share_among_threads(x.shape[0] * weight.numel()),
    )
