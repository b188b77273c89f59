from __future__ import annotations

import importlib.util
import json
import math

import pytest
import torch

from rlkv.bench.gpu_kernels import gpu_kernels
from rlkv.bench.measure import Size
from rlkv_engine.errors import InputError
from tests.engine.paged.kernels.child import run_module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(InputError, match="CUDA device"):
        gpu_kernels(Size())


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_it_runs_and_counts_bytes_under_the_interpreter() -> None:
    figures = json.loads(run_module("tests.rlkv.gpu_kernels_in_little", TRITON_INTERPRET="1"))
    # Its clock says that everything takes 1 s.
    kv_bytes_per_token = 2 * 1 * 16 * 2
    copied = 2 * 3 * 2 * 4 * kv_bytes_per_token
    assert figures == {
        "copy_bytes_per_s": copied,
        "gather_over_copy": 1,
        "scatter_over_copy": 1,
        "decode_bytes_per_s": 2 * 9 * kv_bytes_per_token,
        "decode_over_copy": 2 * 9 * kv_bytes_per_token / copied,
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_figures_on_a_gpu() -> None:
    result = gpu_kernels(Size())
    assert all(math.isfinite(value) and value > 0 for value in result["figures"].values())
    assert json.loads(json.dumps(result)) == result
