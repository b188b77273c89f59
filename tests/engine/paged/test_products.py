"""Compiled products and norms against those of torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rlkv_engine.paged.projection import add_projection, project
from rlkv_engine.paged.rms_norm import rms_norm
from rlkv_engine.paged.skinny_matmul import MAX_ROWS, skinny_matmul
from rlkv_engine.paged.threads import share_among_threads

#: Odd ones too, and more weights than one block of the kernel holds.
SIZES = st.sampled_from([(1, 8), (2, 1), (7, 5), (64, 33), (131, 600), (514, 256)])


@settings(max_examples=60)
@given(rows=st.integers(1, MAX_ROWS + 1), size=SIZES, biased=st.booleans())
def test_a_projection_equals_that_of_torch(rows: int, size: tuple[int, int], biased: bool) -> None:
    num_out, num_in = size
    x, weight = torch.randn(rows, num_in), torch.randn(num_out, num_in)
    bias = torch.randn(num_out) if biased else None
    expected = F.linear(x.double(), weight.double(), bias.double() if biased else None)  # type: ignore[union-attr]
    torch.testing.assert_close(project(x, weight, bias).double(), expected, atol=1e-4, rtol=1e-4)
    # A view with gaps between its rows.
    gapped = torch.randn(rows, 2 * num_in)[:, :num_in].copy_(x)
    torch.testing.assert_close(project(gapped, weight, bias), project(x, weight, bias))
    total = torch.randn(rows, num_out)
    expected = total.double() + F.linear(x.double(), weight.double())
    add_projection(total, x, weight)
    torch.testing.assert_close(total.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("size", [(131, 600), (514, 256)])
def test_threads_share_the_columns(rows: int, size: tuple[int, int]) -> None:
    x, weight = torch.randn(rows, size[1]), torch.randn(size)
    results = [torch.full((rows, size[0]), torch.nan) for _ in range(2)]
    for parallel, result in zip((False, True), results, strict=True):
        skinny_matmul(
            x.numpy(), weight.numpy(), result.numpy(), accumulate=False, parallel=parallel
        )
    torch.testing.assert_close(results[0], F.linear(x, weight), atol=1e-4, rtol=1e-4)
    assert torch.equal(results[0], results[1])


def test_two_threads_of_torch_stay_two() -> None:
    torch.set_num_threads(2)
    x, weight = torch.randn(4, 512), torch.randn(513, 512)
    assert share_among_threads(x.shape[0] * weight.numel())
    assert not share_among_threads(weight.numel())
    result = project(x, weight)
    assert torch.get_num_threads() == 2
    torch.testing.assert_close(result, F.linear(x, weight), atol=1e-4, rtol=1e-4)


def test_what_is_not_finite_stays_so() -> None:
    """The compiler may reorder sums, but not assume that there is no infinity."""
    x, weight = torch.ones(1, 64), torch.ones(4, 64)
    weight[0, 5], weight[1, 7] = torch.inf, torch.nan
    result = project(x, weight)[0]
    assert result[0] == torch.inf
    assert result[1].isnan()
    assert result[2] == 64


@given(rows=st.integers(1, 5), size=st.sampled_from([1, 7, 64, 577]))
def test_a_norm_equals_that_of_torch(rows: int, size: int) -> None:
    x, weight = 3 * torch.randn(rows, size), torch.randn(size)
    expected = F.rms_norm(x.double(), (size,), weight.double(), 1e-5)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).double(), expected, atol=1e-5, rtol=1e-5)
    half = rms_norm(x.bfloat16(), weight.bfloat16(), 1e-5)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), expected, atol=0.05, rtol=0.05)
