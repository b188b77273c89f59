"""A matrix product of few rows on a CPU, compiled: it reads every weight from memory once.

BLAS copies the weights into an order of its own first, which takes longer than the product itself
when there are few rows.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from rlkv_engine.jit import jit_parallel, jit_vector

#: With more rows, BLAS is as fast.
MAX_ROWS = 32

#: Weights of a block, in each of its two halves. Both stay in the second-level cache (256 kB) while
#: the rows of ``x`` pass over them.
_BLOCK_FLOATS = 32 * 1024

Array = npt.NDArray[np.float32]


def skinny_matmul(x: Array, weight: Array, out: Array, *, accumulate: bool, parallel: bool) -> None:
    """``out = x @ weight.T``, or adds that to it.

    Args:
        x: ``[num_rows, in]``, contiguous.
        weight: ``[out, in]``, contiguous.
        out: ``[num_rows, out]``, contiguous, overwritten or added to.
        accumulate: Whether to add.
        parallel: Whether threads share the work.
    """
    if not accumulate:
        out.fill(0)
    if parallel:
        _parallel(x, weight, out)
    else:
        _serial(x, weight, out)


@jit_vector
def _serial(x: Array, weight: Array, out: Array) -> None:
    for block in range(_num_blocks(weight)):
        _block(x, weight, out, block)
    _odd_column(x, weight, out)


@jit_parallel
def _parallel(x: Array, weight: Array, out: Array) -> None:
    for block in numba.prange(_num_blocks(weight)):
        _block(x, weight, out, block)
    _odd_column(x, weight, out)


@jit_vector
def _block_size(weight: Array) -> int:
    return max(1, _BLOCK_FLOATS // weight.shape[1])


@jit_vector
def _num_blocks(weight: Array) -> int:
    return -(-(weight.shape[0] // 2) // _block_size(weight))


@jit_vector
def _block(x: Array, weight: Array, out: Array, block: int) -> None:
    """The columns of ``out`` of one block of the first half of the weights, and of the other half.

    Two streams of weights, far apart, keep more of the memory's bandwidth busy than one.
    """
    half, num_rows = weight.shape[0] // 2, x.shape[0]
    first = block * _block_size(weight)
    last = min(first + _block_size(weight), half)
    row = 0
    while row + 4 <= num_rows:
        _four_rows(x, weight, out, row, first, last, half)
        row += 4
    if row + 2 <= num_rows:
        _two_rows(x, weight, out, row, first, last, half)
        row += 2
    if row < num_rows:
        _one_row(x, weight, out, row, first, last, half)


@jit_vector
def _odd_column(x: Array, weight: Array, out: Array) -> None:
    """The last column, when their number is odd and it is in neither half."""
    last = weight.shape[0] - 1
    if last % 2 == 0:
        for row in range(x.shape[0]):
            total = np.float32(0)
            for k in range(x.shape[1]):
                total += x[row, k] * weight[last, k]
            out[row, last] += total


@jit_vector
def _one_row(
    x: Array, weight: Array, out: Array, row: int, first: int, last: int, half: int
) -> None:
    x0 = x[row]
    for n in range(first, last):
        low, high = weight[n], weight[n + half]
        a = b = np.float32(0)
        for k in range(x.shape[1]):
            a += low[k] * x0[k]
            b += high[k] * x0[k]
        out[row, n] += a
        out[row, n + half] += b


@jit_vector
def _two_rows(
    x: Array, weight: Array, out: Array, row: int, first: int, last: int, half: int
) -> None:
    x0, x1 = x[row], x[row + 1]
    for n in range(first, last):
        low, high = weight[n], weight[n + half]
        a = b = c = d = np.float32(0)
        for k in range(x.shape[1]):
            v, w = low[k], high[k]
            a += v * x0[k]
            b += v * x1[k]
            c += w * x0[k]
            d += w * x1[k]
        out[row, n] += a
        out[row + 1, n] += b
        out[row, n + half] += c
        out[row + 1, n + half] += d


@jit_vector
def _four_rows(
    x: Array, weight: Array, out: Array, row: int, first: int, last: int, half: int
) -> None:
    x0, x1, x2, x3 = x[row], x[row + 1], x[row + 2], x[row + 3]
    for n in range(first, last):
        low, high = weight[n], weight[n + half]
        a = b = c = d = e = f = g = h = np.float32(0)
        for k in range(x.shape[1]):
            v, w = low[k], high[k]
            a += v * x0[k]
            b += v * x1[k]
            c += v * x2[k]
            d += v * x3[k]
            e += w * x0[k]
            f += w * x1[k]
            g += w * x2[k]
            h += w * x3[k]
        out[row, n] += a
        out[row + 1, n] += b
        out[row + 2, n] += c
        out[row + 3, n] += d
        out[row, n + half] += e
        out[row + 1, n + half] += f
        out[row + 2, n + half] += g
        out[row + 3, n + half] += h
