"""Memory for KV on both tiers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from rlkv_engine.errors import InputError
from rlkv_engine.profile import Profile

if TYPE_CHECKING:
    from rlkv_engine.paged.loading import LoadedModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token's KV looks like."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values of one token, all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Arena:
    """KV memory of a machine: blocks on the device and on the host.

    The layouts differ (docs/decisions/0015-two-layouts.md): the device's serves attention, which
    reads one layer of many blocks; the host's serves copies, which move whole blocks.
    """

    device: Tensor  # [num_layers, 2, num_device_blocks, block_size, num_kv_heads, head_dim]
    host: Tensor  # [num_host_blocks, num_layers, 2, block_size, num_kv_heads, head_dim]
    pinned: bool  #: host memory that a GPU copies to and from by itself

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, all layers."""
        return self.device[:, :, 0].numel() * self.device.element_size()

    def synchronize(self) -> None:
        """Waits until a GPU has done all that it was given; elsewhere nothing is under way."""
        if self.device.is_cuda:
            torch.cuda.synchronize(self.device.device)


class HasKV(Protocol):
    """What a model's configuration says of its KV."""

    @property
    def num_layers(self) -> int:
        """Layers."""

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values of a layer."""

    @property
    def head_dim(self) -> int:
        """Numbers of a head."""


def kv_shape(config: HasKV, dtype: torch.dtype) -> KVShape:
    """What one token's KV of a model looks like."""
    return KVShape(config.num_layers, config.num_kv_heads, config.head_dim, dtype)


def build_arena(
    shape: KVShape,
    *,
    num_device_blocks: int,
    num_host_blocks: int,
    block_size: int,
    device: torch.device,
) -> Arena:
    """Allocates both tiers; where the host's cannot be pinned it is not, and a warning says so.

    Raises:
        InputError: there is not so much memory, with the bytes that were asked for.
    """
    token = (shape.num_kv_heads, shape.head_dim)
    device_shape = (shape.num_layers, 2, num_device_blocks, block_size, *token)
    host_shape = (num_host_blocks, shape.num_layers, 2, block_size, *token)
    block_bytes = shape.token_bytes * block_size
    try:
        on_device = torch.zeros(device_shape, dtype=shape.dtype, device=device)
    except (RuntimeError, MemoryError) as error:
        raise InputError(
            f"no memory for {num_device_blocks} KV blocks on {device}:"
            f" {num_device_blocks * block_bytes} B"
        ) from error
    try:
        on_host, pinned = host_memory(host_shape, shape.dtype, pin=device.type == "cuda")
    except (RuntimeError, MemoryError) as error:
        raise InputError(
            f"no memory for {num_host_blocks} KV blocks on the host:"
            f" {num_host_blocks * block_bytes} B"
        ) from error
    return Arena(on_device, on_host, pinned)


def host_memory(shape: tuple[int, ...], dtype: torch.dtype, pin: bool) -> tuple[Tensor, bool]:
    """Memory of the host, all 0, and whether it is pinned; where it cannot be it is used as is."""
    if pin:
        try:
            return torch.zeros(shape, dtype=dtype, pin_memory=True), True
        except RuntimeError as error:
            _log.warning("host KV cannot be pinned, copies will be slower: %s", error)
    return torch.zeros(shape, dtype=dtype), False


def arena_for(loaded: LoadedModel, profile: Profile) -> Arena:
    """Both tiers for a model, with as many blocks as its profile says, where the model is.

    Raises:
        InputError: there is not so much memory.
    """
    return build_arena(
        kv_shape(loaded.config, loaded.model.dtype),
        num_device_blocks=profile.num_device_blocks,
        num_host_blocks=profile.num_host_blocks,
        block_size=profile.block_size,
        device=loaded.model.device,
    )
