"""What the kernels do not take is refused before anything is launched."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from rlkv_engine.errors import InputError
from tests.engine.paged.kernels.child import ROOT

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


@needs_triton
@pytest.mark.parametrize("head_dim", [8, 72, 256])
def test_head_dims_that_were_never_compiled(head_dim: int) -> None:
    from rlkv_engine.paged.kernels.paged_tile import padded_head_dim

    with pytest.raises(InputError, match=f"head_dim {head_dim}: .* up to 128"):
        padded_head_dim(head_dim)


@needs_triton
def test_more_heads_than_rows() -> None:
    from rlkv_engine.paged.kernels.decode_attention import decode_shape

    with pytest.raises(InputError, match="129 query heads"):
        decode_shape(129, torch.float16)


@needs_triton
def test_scattered_heads() -> None:
    from rlkv_engine.paged.kernels.kv_write import write_kv

    cache = torch.zeros(2, 1, 4, 2, 64)
    key = torch.zeros(2, 3, 64).transpose(0, 1)
    with pytest.raises(InputError, match="key: strides"):
        write_kv(key, key, cache, torch.arange(3))
    with pytest.raises(InputError, match="kv_cache: strides"):
        key = torch.zeros(3, 2, 64)
        write_kv(key, key, cache.expand(2, 2, 4, 2, 64), torch.arange(3))


@needs_triton
def test_tensors_on_the_cpu() -> None:
    from rlkv_engine.paged.attention_batch import AttentionBatch, Span
    from rlkv_engine.paged.attention_triton import triton_attention

    tokens = torch.zeros(1, 1, 64)
    batch = AttentionBatch.from_spans([], [Span([0], 0, 1)], block_size=4)
    with pytest.raises(InputError, match="on a GPU"):
        triton_attention(tokens, tokens, tokens, torch.zeros(2, 1, 4, 1, 64), batch, 1.0)


def test_the_backend_is_imported_without_triton() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import rlkv_engine.paged.attention_triton, rlkv_engine.paged.kernels"
    )
    child = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "engine"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_host_memory_that_a_gpu_cannot_read() -> None:
    from rlkv_engine.paged.kernels.tier_copy import copy_between_tiers

    arena, host = torch.zeros(1, 2, 3, 4, 1, 16, device="cuda"), torch.zeros(3, 1, 2, 4, 1, 16)
    ids = torch.zeros(1, dtype=torch.int32, device="cuda")
    with pytest.raises(InputError, match="not pinned"):
        copy_between_tiers(arena, host, ids, ids, out=True)
