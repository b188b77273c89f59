"""Puts together what attention found in the parts of a context.

Each part left its own softmax's output and the logarithm of its denominator, from which the output
over the whole follows (FlashDecoding: Dao et al., https://pytorch.org/blog/flash-decoding/; vLLM's
``reduce_segments`` in ``vllm/v1/attention/ops/triton_unified_attention.py``).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from rlkv_engine.paged.kernels.context_splits import MAX_SPLITS
from rlkv_engine.paged.kernels.layout import check_contiguous, check_rows
from rlkv_engine.paged.kernels.paged_tile import padded_head_dim


def reduce_splits(partial: Tensor, lse: Tensor, out: Tensor) -> None:
    """Weighs the parts of each token and head and adds them up.

    Args:
        partial: ``[num_tokens, num_heads, num_splits, head_dim]`` float32, contiguous; read only
            where ``lse`` is finite.
        lse: ``[num_tokens, num_heads, num_splits]`` float32, contiguous: log2 of the sum of
            2^score of each part, minus infinity where it saw nothing. At most 128 splits.
        out: ``[num_tokens, num_heads, head_dim]``, contiguous but for the stride between tokens,
            any floating dtype; written in place.

    Raises:
        InputError: tensors laid out otherwise.
    """
    check_contiguous(partial=partial, lse=lse)
    check_rows(out=out)
    num_tokens, num_heads, num_splits, head_dim = partial.shape
    _reduce_splits_kernel[(num_tokens, num_heads)](
        out,
        partial,
        lse,
        out.stride(0),
        num_splits,
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        PADDED_DIM=padded_head_dim(head_dim),
        MAX_SPLITS=MAX_SPLITS,
    )


def reduce_splits_reference(partial: Tensor, lse: Tensor, out: Tensor) -> None:
    """The same in torch."""
    weights = (lse * 0.6931471805599453).softmax(dim=-1)[..., None]  # 2^lse as a power of e
    out.copy_((weights * partial.where(weights > 0, 0)).sum(dim=2))


@triton.jit(do_not_specialize=["num_splits"])  # type: ignore[untyped-decorator]
def _reduce_splits_kernel(
    out_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    out_stride: tl.tensor,
    num_splits: tl.tensor,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    row = (token * NUM_HEADS + head) * num_splits
    splits = tl.arange(0, MAX_SPLITS)
    lse = tl.load(lse_ptr + row + splits, mask=splits < num_splits, other=float("-inf"))
    largest = tl.max(lse, axis=0)
    total = tl.sum(tl.exp2(lse - largest), axis=0)

    dims = tl.arange(0, PADDED_DIM)
    acc = tl.zeros([PADDED_DIM], tl.float32)
    for start in range(0, num_splits, 16):
        some = start + tl.arange(0, 16)
        some_lse = tl.load(lse_ptr + row + some, mask=some < num_splits, other=float("-inf"))
        part = tl.load(
            partial_ptr + (row + some)[:, None] * HEAD_DIM + dims[None, :],
            mask=(some_lse[:, None] > float("-inf")) & (dims[None, :] < HEAD_DIM),
            other=0.0,
        )
        acc += tl.sum(tl.exp2(some_lse - largest)[:, None] * part, axis=0)
    attended = (acc / total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token * out_stride + head * HEAD_DIM + dims, attended, mask=dims < HEAD_DIM)
