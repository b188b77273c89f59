"""What the kernels take for granted of their tensors; with anything else they read wrong memory."""

from __future__ import annotations

from torch import Tensor

from rlkv_engine.errors import InputError


def check_rows(**tensors: Tensor) -> None:
    """Heads of a token must be one contiguous run; tokens may be any distance apart.

    Args:
        tensors: By name, each ``[num_tokens, num_heads, head_dim]``.

    Raises:
        InputError: one is not laid out so.
    """
    for name, tensor in tensors.items():
        if tensor.stride()[1:] != (tensor.shape[2], 1):
            raise InputError(
                f"{name}: strides {tensor.stride()} of shape {tuple(tensor.shape)}: the heads of a"
                " token must be contiguous"
            )


def check_contiguous(**tensors: Tensor) -> None:
    """Nothing may lie between two rows.

    Raises:
        InputError: one is not contiguous.
    """
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise InputError(
                f"{name}: strides {tensor.stride()} of shape {tuple(tensor.shape)}: must be"
                " contiguous"
            )
