"""The GPU bench on a few bytes and a clock that stands still; for Triton's interpreter."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from rlkv.bench.gpu_kernels import Shape, measure

LITTLE = Shape(
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    block_size=4,
    num_blocks=5,
    num_copied=3,
    num_seqs=2,
    context_len=9,
)


def one_second(run: Callable[[], object], repetitions: int) -> float:
    for _ in range(repetitions):
        run()
    return 1.0


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(json.dumps(measure(LITTLE, torch.device("cpu"), 1, 1, one_second)))
