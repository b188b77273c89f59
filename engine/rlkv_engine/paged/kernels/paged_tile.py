"""One tile of paged attention: the step that the decode and the prefill kernel repeat.

Online softmax in base 2 with float32 accumulators (FlashAttention-2, arXiv 2307.08691). Keys and
values are found through a block table, token by token, as in vLLM's ``kernel_unified_attention``
(``vllm/v1/attention/ops/triton_unified_attention.py``), so that any block size will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from rlkv_engine.errors import InputError

LOG2_E = 1.4426950408889634
_MAX_HEAD_DIM = 128
#: Query rows of a program: ``tl.dot`` wants 16, and these were compiled without spills.
_ROWS = (16, 64, 128)


@dataclass(frozen=True, slots=True)
class TileShape:
    """What one program of an attention kernel works on, and with how many warps."""

    rows: int  #: query rows: heads of a KV head, times query tokens
    tile: int  #: tokens of context a step
    num_warps: int
    num_stages: int  #: 3: the keys and values of two more steps are on their way


def padded_rows(rows: int) -> int:
    """Rows of the smallest program that has so many.

    Raises:
        InputError: more query heads of one KV head than a program can have.
    """
    for padded in _ROWS:
        if rows <= padded:
            return padded
    raise InputError(
        f"{rows} query heads for one KV head: the Triton kernels take at most {_ROWS[-1]}"
    )


def padded_head_dim(head_dim: int) -> int:
    """The next power of two: the width of a tile, whose tail is masked.

    Raises:
        InputError: not a multiple of 16, or more than 128: nothing was compiled for it.
    """
    if head_dim % 16 or not 16 <= head_dim <= _MAX_HEAD_DIM:
        raise InputError(
            f"head_dim {head_dim}: the Triton kernels take multiples of 16 up to {_MAX_HEAD_DIM}"
        )
    padded: int = triton.next_power_of_2(head_dim)
    return padded


def compute_dtype(dtype: torch.dtype) -> Any:
    """The Triton type in which tiles are multiplied: that of the tensors.

    But float32 for bfloat16 under the interpreter, whose ``tl.dot`` multiplies the bits of bfloat16
    as if they were integers.
    """
    if dtype == torch.bfloat16:
        return tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16
    return {torch.float16: tl.float16, torch.float32: tl.float32}[dtype]


@triton.jit  # type: ignore[untyped-decorator]
def load_block_ids(
    block_table_ptr: tl.tensor,  # of one sequence
    start: tl.tensor,
    end: tl.tensor,
    TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
) -> Any:
    """Blocks of the tokens ``[start, start + TILE)``; 0 from ``end`` on.

    The kernels load them one step ahead. Loaded in the step that uses them, they would be part of
    its chain of copies, and Triton would keep only one tile of keys and values on its way.
    """
    tokens = start + tl.arange(0, TILE)
    return tl.load(block_table_ptr + tokens // BLOCK_SIZE, mask=tokens < end, other=0)


@triton.jit  # type: ignore[untyped-decorator]
def attend_tile(
    query: tl.tensor,  # [ROWS, PADDED_DIM], COMPUTE
    acc: tl.tensor,  # [ROWS, PADDED_DIM] float32, not yet divided by row_sum
    row_max: tl.tensor,  # [ROWS] float32, of scores in base 2
    row_sum: tl.tensor,  # [ROWS] float32
    start: tl.tensor,  # first token of the tile
    end: tl.tensor,  # tokens from here on are not read
    visible: tl.tensor,  # [ROWS]: row r sees the tokens below visible[r]
    key_ptr: tl.tensor,  # of this KV head, at slot 0
    value_ptr: tl.tensor,
    block_ids: tl.tensor,  # [TILE] int32
    scale_log2: tl.tensor,
    MASKED: tl.constexpr,  # whether some row may not see all TILE tokens
    TILE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    COMPUTE: tl.constexpr,
) -> Any:
    """Adds TILE tokens to the accumulators and returns them.

    A row that has seen nothing yet keeps a ``row_max`` of minus infinity and a ``row_sum`` of 0.
    """
    tokens = start + tl.arange(0, TILE)
    dims = tl.arange(0, PADDED_DIM)
    if MASKED:
        read = tokens < end
    else:
        read = tl.full([TILE], True, tl.int1)
    # 64 bits: the cache has more than 2^31 elements on any large GPU.
    slots = block_ids.to(tl.int64) * BLOCK_SIZE + tokens % BLOCK_SIZE
    offsets = slots * (NUM_KV_HEADS * HEAD_DIM)
    key = tl.load(
        key_ptr + offsets[None, :] + dims[:, None],
        mask=read[None, :] & (dims[:, None] < HEAD_DIM),
        other=0.0,
    ).to(COMPUTE)  # [PADDED_DIM, TILE]
    scores = tl.dot(query, key, input_precision="ieee") * scale_log2  # [ROWS, TILE]
    if MASKED:
        seen = read[None, :] & (tokens[None, :] < visible[:, None])
        scores = tl.where(seen, scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, axis=1))
    base = new_max
    if MASKED:
        # Minus infinity less itself is NaN.
        base = tl.where(new_max == float("-inf"), 0.0, new_max)
    shrink = tl.exp2(row_max - base)
    weights = tl.exp2(scores - base[:, None])
    # What is not read must be 0 and not whatever lies there: a weight of 0 times NaN is NaN.
    value = tl.load(
        value_ptr + offsets[:, None] + dims[None, :],
        mask=read[:, None] & (dims[None, :] < HEAD_DIM),
        other=0.0,
    ).to(COMPUTE)  # [TILE, PADDED_DIM]
    acc = tl.dot(weights.to(COMPUTE), value, acc * shrink[:, None], input_precision="ieee")
    return acc, new_max, row_sum * shrink + tl.sum(weights, axis=1)


@triton.jit  # type: ignore[untyped-decorator]
def store_part(
    partial_ptr: tl.tensor,  # [num_tokens, num_heads, num_splits, HEAD_DIM] float32
    lse_ptr: tl.tensor,  # [num_tokens, num_heads, num_splits] float32; both at the first token
    parts: tl.tensor,  # [ROWS] int32: the place of each row in lse
    acc: tl.tensor,
    row_max: tl.tensor,
    row_sum: tl.tensor,
    kept: tl.tensor,  # [ROWS]
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
) -> None:
    """Stores what the rows found in their part of the context, for ``reduce_splits``."""
    dims = tl.arange(0, PADDED_DIM)
    # A row that saw nothing: row_max, and so what is stored in lse, is minus infinity.
    row_sum = tl.where(row_sum > 0.0, row_sum, 1.0)
    tl.store(
        partial_ptr + parts[:, None] * HEAD_DIM + dims[None, :],
        acc / row_sum[:, None],
        mask=kept[:, None] & (dims[None, :] < HEAD_DIM),
    )
    tl.store(lse_ptr + parts, row_max + tl.log2(row_sum), mask=kept)
