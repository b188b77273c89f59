"""Copies between a GPU and the host: every block, in order with what is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from rlkv_engine.paged.arena import Arena, KVShape, build_arena
from rlkv_engine.paged.copies import Copy, copy_engine
from tests.engine.paged.devices import needs_gpu

pytestmark = [pytest.mark.gpu, needs_gpu]

NUM_DEVICE, NUM_HOST = 200, 150
#: Clock cycles that a GPU is kept busy: some 30 ms.
_BUSY = 50_000_000


@pytest.fixture(params=["pinned", "pageable"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    arena = build_arena(
        KVShape(num_layers=3, num_kv_heads=2, head_dim=40, dtype=torch.bfloat16),
        num_device_blocks=NUM_DEVICE,
        num_host_blocks=NUM_HOST,
        block_size=4,
        device=torch.device("cuda"),
    )
    assert arena.pinned
    if request.param == "pageable":
        arena = replace(
            arena, host=torch.zeros(arena.host.shape, dtype=arena.host.dtype), pinned=False
        )
    arena.device.normal_()
    arena.host.normal_()
    arena.synchronize()
    yield arena


def on_host(arena: Arena) -> torch.Tensor:
    """The device's blocks in the host's layout."""
    return arena.device.permute(2, 0, 1, 3, 4, 5).cpu()


@pytest.mark.parametrize("count", [1, 63, 64, 65, 70])
def test_blocks_go_both_ways_at_once(arena: Arena, count: int) -> None:
    torch.manual_seed(count)
    device = torch.randperm(NUM_DEVICE)[: 2 * count]
    host = torch.randperm(NUM_HOST)[: 2 * count]
    expected_device, expected_host = on_host(arena), arena.host.clone()
    expected_host[host[:count]] = expected_device[device[:count]]
    expected_device[device[count:]] = arena.host[host[count:]]
    copies = copy_engine(arena)
    ways = (device[:count], host[:count], True), (device[count:], host[count:], False)
    # Each way in two copies, as of two slots.
    copies.start(
        [
            Copy(0, out, range(len(blocks)), blocks.tolist(), others.tolist())
            for from_device, from_host, out in ways
            for blocks, others in (
                (from_device[:40], from_host[:40]),
                (from_device[40:], from_host[40:]),
            )
        ]
    )
    assert copies.wait() == [] == copies.wait()
    copies.close()
    assert torch.equal(arena.host, expected_host)
    assert torch.equal(on_host(arena), expected_device)


def test_what_was_computed_before_is_what_is_copied(arena: Arena) -> None:
    copies = copy_engine(arena)
    # What the kernels compile to is not what is waited for below.
    copies.start([Copy(0, True, [0], [0], [0]), Copy(0, False, [0], [0], [1])])
    copies.wait()
    torch.cuda._sleep(_BUSY)  # type: ignore[no-untyped-call]
    arena.device[:, :, 7] = 3.0
    copies.start([Copy(0, True, [0], [7], [5])])
    copies.wait()
    assert (arena.host[5] == 3.0).all()
    copies.close()


def test_what_is_computed_afterwards_sees_what_came_in(arena: Arena) -> None:
    copies = copy_engine(arena)
    arena.host[9] = 4.0
    copies.start([Copy(0, False, [0], [8], [9])])
    beside = arena.device[:, :, :8].sum()  # beside the copy, on the stream of the model
    copies.wait()
    after = arena.device[:, :, 8].float().mean()
    assert float(after) == 4.0 and beside.isfinite()
    copies.close()
