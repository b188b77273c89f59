"""What is moved between the tiers arrives bit for bit, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from rlkv_engine.paged import copies
from rlkv_engine.paged.arena import KVShape, build_arena
from rlkv_engine.paged.copies import Copy, ThreadCopies, copy_blocks
from tests.engine.paged.small_engine import small_engine


def test_a_block_of_the_device_is_copied_whole() -> None:
    engine = small_engine()
    arena = engine._arena
    arena.device[:, :, 3] = 7.0
    copy_blocks(arena, Copy(0, True, [0], [3], [5]))
    assert (arena.host[5] == 7.0).all() and (arena.host[4] == 0.0).all()
    copy_blocks(arena, Copy(0, False, [0], [1], [5]))
    assert (arena.device[:, :, 1] == 7.0).all() and (arena.device[:, :, 2] == 0.0).all()
    engine.close()


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(
    "shape",
    [KVShape(3, 2, 8, torch.float32), KVShape(3, 2, 5, torch.bfloat16)],
    ids=["lines of the cache", "80 bytes"],
)
def test_many_blocks_of_any_layout_change_tier_at_once_or_on_the_thread(
    shape: KVShape, inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_MAX_INLINE_BYTES", 1 << 20 if inline else 0)
    arena = build_arena(
        shape,
        num_device_blocks=9,
        num_host_blocks=7,
        block_size=4,
        device=torch.device("cpu"),
    )
    arena.device.normal_()
    arena.host.normal_()
    before_device, before_host = arena.device.clone(), arena.host.clone()
    engine = ThreadCopies(arena)
    engine.start([Copy(0, True, [0, 1, 2], [8, 0, 4], [6, 2, 0]), Copy(1, False, [0], [1], [3])])
    assert engine.wait() == [] == engine.wait()
    for device, host in ((8, 6), (0, 2), (4, 0)):
        assert torch.equal(arena.host[host], before_device[:, :, device])
    assert torch.equal(arena.device[:, :, 1], before_host[3])
    untouched = [0, 2, 3, 4, 5, 6, 7, 8]
    assert torch.equal(arena.device[:, :, untouched], before_device[:, :, untouched])
    assert torch.equal(arena.host[[1, 3, 4, 5]], before_host[[1, 3, 4, 5]])
    bad = [
        Copy(0, True, [0], [9], [0]),
        Copy(0, False, [0], [0], [-1]),
        Copy(0, True, [0], [1], []),
    ]
    engine.start(bad)
    assert engine.wait() == bad
    engine.close()
