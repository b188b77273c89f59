"""How near the paged kernels come to the speed at which a GPU copies its own memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlkv.bench.measure import Size
from rlkv_engine.errors import InputError, RlkvError

#: Runs ``repetitions`` times and returns the median of seconds.
Timer = Callable[[Callable[[], object], int], float]
#: Of the largest number; bfloat16 has 8 bits of mantissa.
_TOLERANCE = 2e-2


@dataclass(frozen=True, slots=True)
class Shape:
    """KV of an 8B Llama; every working set is larger than any cache."""

    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    block_size: int = 16
    #: Blocks of all layers, 2 MiB each, and how many of them are copied.
    num_blocks: int = 1024
    num_copied: int = 256
    num_seqs: int = 64
    context_len: int = 4096


def gpu_kernels(size: Size) -> dict[str, Any]:
    """Bytes/s of gather, scatter and decode attention over those of a copy on the device.

    Raises:
        InputError: no CUDA device.
        RlkvError: a kernel gives something else than its reference.
    """
    if not torch.cuda.is_available():
        raise InputError("bench gpu needs a CUDA device and a torch built for it: there is none")
    device = torch.device("cuda")
    properties = torch.cuda.get_device_properties(device)
    shape = Shape()
    figures = measure(shape, device, properties.multi_processor_count, size.repetitions, cuda_s)
    return {
        "figures": figures,
        "measured_on": {
            "device": properties.name,
            "torch": torch.__version__,
            "dtype": "bfloat16",
            "shape": asdict(shape),
        },
    }


def measure(
    shape: Shape, device: torch.device, num_processors: int, repetitions: int, seconds: Timer
) -> dict[str, float]:
    """The figures, on any device on which the kernels run.

    A copy of n bytes moves 2n, and so do gather and scatter; attention reads the KV of its contexts
    once, n bytes.

    Raises:
        RlkvError: a kernel gives something else than its reference.
    """
    copied = _block_copies(shape, device, repetitions, seconds)
    decoded = _decode(shape, device, num_processors, repetitions, seconds)
    copy = copied.pop("copy")
    return {
        "copy_bytes_per_s": copy,
        **{f"{name}_over_copy": speed / copy for name, speed in copied.items()},
        "decode_bytes_per_s": decoded,
        "decode_over_copy": decoded / copy,
    }


def cuda_s(run: Callable[[], object], repetitions: int) -> float:
    """Median time of a run on the device by its own clock, seconds; the first three do not count.

    Of at least 20 runs: a single one is a fraction of a millisecond.
    """
    durations: list[float] = []
    for _ in range(3):
        run()
    for _ in range(max(20, repetitions)):
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        end.synchronize()
        durations.append(start.elapsed_time(end) / 1e3)
    return statistics.median(durations)


def _block_copies(
    shape: Shape, device: torch.device, repetitions: int, seconds: Timer
) -> dict[str, float]:
    from rlkv_engine.paged.kernels import block_copy

    block = (shape.block_size, shape.num_kv_heads, shape.head_dim)
    arena = _random(shape.num_layers, 2, shape.num_blocks, *block, device=device)
    staging = _random(shape.num_copied, shape.num_layers, 2, *block, device=device)
    block_ids = torch.randperm(shape.num_blocks, device=device)[: shape.num_copied]
    other = torch.empty_like(staging)
    runs: dict[str, Callable[[], object]] = {
        "copy": partial(other.copy_, staging),
        "gather": partial(block_copy.gather_blocks, arena, block_ids, staging),
        "scatter": partial(block_copy.scatter_blocks, staging, block_ids, arena),
    }
    runs["scatter"]()
    block_copy.gather_blocks_reference(arena, block_ids, other)
    _expect("scatter", torch.equal(staging, other))
    staging.zero_()
    runs["gather"]()
    _expect("gather", torch.equal(staging, other))
    moved = 2 * staging.numel() * staging.element_size()
    return {name: moved / seconds(run, repetitions) for name, run in runs.items()}


def _decode(
    shape: Shape, device: torch.device, num_processors: int, repetitions: int, seconds: Timer
) -> float:
    from rlkv_engine.paged.kernels.decode_attention import (
        decode_attention,
        decode_attention_reference,
        decode_splits,
    )

    blocks_each = -(-shape.context_len // shape.block_size)
    num_blocks = shape.num_seqs * blocks_each
    kv_cache = _random(
        2, num_blocks, shape.block_size, shape.num_kv_heads, shape.head_dim, device=device
    )
    # Blocks as they lie after an hour of serving: anywhere.
    tables = torch.randperm(num_blocks, device=device).int().view(shape.num_seqs, blocks_each)
    lens = [shape.context_len] * shape.num_seqs
    context_lens = torch.tensor(lens, dtype=torch.int32, device=device)
    query = _random(shape.num_seqs, shape.num_heads, shape.head_dim, device=device)
    out, expected = torch.zeros_like(query), torch.zeros_like(query)
    scale = shape.head_dim**-0.5
    splits = decode_splits(lens, shape.num_kv_heads, num_processors)
    run = partial(decode_attention, query, kv_cache, tables, context_lens, out, scale, splits)
    run()
    decode_attention_reference(query, kv_cache, tables, context_lens, expected, scale, splits)
    error = (out - expected).abs().max() / expected.abs().max()
    _expect("decode attention", float(error) <= _TOLERANCE)
    read = sum(lens) * 2 * shape.num_kv_heads * shape.head_dim * kv_cache.element_size()
    return read / seconds(run, repetitions)


def _random(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device=device)


def _expect(kernel: str, right: bool) -> None:
    if not right:
        raise RlkvError(f"{kernel} gives something else than its torch reference: not measured")
