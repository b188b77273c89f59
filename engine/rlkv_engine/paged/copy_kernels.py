"""Copies of KV blocks between two tiers that are both RAM, in one compiled call."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from rlkv_engine.jit import jit_vector

Ids = npt.NDArray[np.int64]

#: Bytes that ``_move_line`` moves: a line of the cache.
_LINE = 64


@intrinsic
def _memcpy(_typing: Any, target: Any, source: Any, size: Any) -> Any:
    """The C library's ``memcpy`` on addresses."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        target, source, size = arguments
        memcpy = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, ir.IntType(64)])
        target, source = (builder.inttoptr(address, pointer) for address in (target, source))
        builder.call(memcpy, [target, source, size, ir.IntType(1)(0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _move_line(_typing: Any, target: Any, source: Any) -> Any:
    """Moves an aligned line past the caches, without reading what it overwrites.

    ``memcpy`` does so for megabytes, not for runs of kilobytes.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = ir.VectorType(ir.IntType(32), _LINE // 4).as_pointer()
        target, source = (builder.inttoptr(address, pointer) for address in arguments)
        store = builder.store(builder.load(source, align=_LINE), target, align=_LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _fence(_typing: Any) -> Any:
    """What was moved past the caches is there before what comes after."""

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@jit_vector
def move_blocks(
    device: int,
    host: int,
    num_runs: int,
    num_device_blocks: int,
    run_bytes: int,
    device_blocks: Ids,
    host_blocks: Ids,
    out: bool,
) -> None:
    """Copies blocks without Python's lock from the first to the last.

    Args:
        device: address of ``[num_runs, num_device_blocks, run_bytes]``.
        host: address of ``[num_host_blocks, num_runs, run_bytes]``.
        num_runs: pieces of a block on the device.
        num_device_blocks: of the device's pool.
        run_bytes: of a piece.
        device_blocks: ``[num_copied]``, in range: nothing checks it here.
        host_blocks: ``[num_copied]``, likewise.
        out: to the host.
    """
    is_aligned = (device | host | run_bytes) % _LINE == 0
    for i in range(len(device_blocks)):
        for run in range(num_runs):
            source = device + (run * num_device_blocks + device_blocks[i]) * run_bytes
            target = host + (host_blocks[i] * num_runs + run) * run_bytes
            if not out:
                source, target = target, source
            if is_aligned:
                for offset in range(0, run_bytes, _LINE):
                    _move_line(target + offset, source + offset)  # type: ignore[call-arg]
            else:
                _memcpy(target, source, run_bytes)  # type: ignore[call-arg]
    _fence()  # type: ignore[call-arg]
