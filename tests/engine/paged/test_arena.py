"""KV memory of both tiers."""

from __future__ import annotations

import logging

import pytest
import torch

from rlkv_engine.errors import InputError
from rlkv_engine.paged.arena import KVShape, build_arena, host_memory

SHAPE = KVShape(num_layers=3, num_kv_heads=2, head_dim=8, dtype=torch.float16)


def test_a_block_has_the_bytes_of_its_tokens() -> None:
    arena = build_arena(
        SHAPE, num_device_blocks=5, num_host_blocks=7, block_size=4, device=torch.device("cpu")
    )
    assert SHAPE.token_bytes == 2 * 3 * 2 * 8 * 2
    assert arena.block_bytes == 4 * SHAPE.token_bytes == arena.host[0].nbytes
    assert arena.device.shape == (3, 2, 5, 4, 2, 8) and arena.host.shape == (7, 3, 2, 4, 2, 8)
    assert not arena.pinned


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory can be pinned here")
def test_memory_that_cannot_be_pinned_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        memory, pinned = host_memory((2, 3), torch.float32, pin=True)
    assert not pinned and memory.shape == (2, 3)
    assert "host KV cannot be pinned, copies will be slower" in caplog.text


def test_too_much_memory_is_refused_with_the_bytes() -> None:
    with pytest.raises(InputError, match=r"no memory for 2000000000 KV blocks on cpu: \d+ B"):
        build_arena(
            SHAPE,
            num_device_blocks=2_000_000_000,
            num_host_blocks=0,
            block_size=16,
            device=torch.device("cpu"),
        )
