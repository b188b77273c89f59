"""What the kernels are tried on; imports neither torch nor triton."""

from __future__ import annotations

from dataclasses import dataclass

#: Largest error by dtype, relative where the expected number is larger than 1.
TOLERANCE = {"float32": 3e-6, "float16": 2e-3, "bfloat16": 2e-2}


@dataclass(frozen=True, slots=True)
class WriteCase:
    dtype: str
    num_kv_heads: int
    head_dim: int
    num_tokens: int
    num_skipped: int = 0


@dataclass(frozen=True, slots=True)
class CopyCase:
    dtype: str
    block_size: int
    num_kv_heads: int
    head_dim: int
    num_copied: int
    num_layers: int = 3


@dataclass(frozen=True, slots=True)
class ReduceCase:
    dtype: str
    head_dim: int
    num_splits: int


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """Decode where ``query_lens`` is empty."""

    dtype: str
    head_dim: int
    group: int
    context_lens: tuple[int, ...]
    query_lens: tuple[int, ...] = ()
    split_tokens: int = 0  #: 0: one split
    num_kv_heads: int = 1
    block_size: int = 16


WRITES = {
    "one token": WriteCase("float32", 1, 64, 1),
    "some skipped": WriteCase("float16", 3, 64, 9, 4),
    "all skipped": WriteCase("float32", 2, 64, 3, 3),
    "head_dim 80": WriteCase("float16", 3, 80, 5, 1),
    "a row of several programs": WriteCase("bfloat16", 9, 128, 2),
}

COPIES = {
    "one block": CopyCase("float32", 16, 2, 64, 1),
    "head_dim 80": CopyCase("float16", 16, 3, 80, 4),
    "a run of several programs": CopyCase("bfloat16", 32, 2, 128, 3, 1),
    "a run of few bytes": CopyCase("float16", 1, 1, 18, 5),
    "no block": CopyCase("float32", 4, 1, 64, 0),
}

#: Other tiles and loops than above: a block is one run on the host.
TIER_COPIES = COPIES | {
    "a block of several tiles": CopyCase("float32", 16, 3, 64, 7, num_layers=2),
    "more tiles than programs": CopyCase("bfloat16", 16, 8, 64, 9, num_layers=5),
}

REDUCES = {
    "2 of 64": ReduceCase("float32", 64, 2),
    "19 of 80": ReduceCase("float16", 80, 19),
    "128 of 16": ReduceCase("float32", 16, 128),
}

DECODES = {
    "one token": AttentionCase("float32", 64, 1, (1,)),
    "block boundary fp32": AttentionCase("float32", 64, 1, (15, 16, 17, 31, 32, 33)),
    "block boundary fp16": AttentionCase("float16", 64, 3, (15, 16, 17, 31, 32, 33)),
    "group 3 fp32": AttentionCase("float32", 64, 3, (9, 50), num_kv_heads=2),
    "group 4, head_dim 128": AttentionCase("float16", 128, 4, (7, 40), num_kv_heads=2),
    "group 8, head_dim 80": AttentionCase("float16", 80, 8, (33,)),
    "group 8, head_dim 128": AttentionCase("float32", 128, 8, (18,)),
    "group 20": AttentionCase("float16", 64, 20, (21,)),
    "bf16": AttentionCase("bfloat16", 64, 3, (37,)),
    "blocks of 8": AttentionCase("float16", 64, 4, (7, 8, 9, 41), block_size=8),
    "splits": AttentionCase("float32", 80, 4, (1, 3, 63, 64, 65, 150), split_tokens=64),
    "splits fp16": AttentionCase("float16", 128, 1, (129, 20), split_tokens=64, num_kv_heads=2),
    "20 splits": AttentionCase("float16", 64, 3, (80, 3), split_tokens=4),
}

PREFILLS = {
    "one token": AttentionCase("float32", 64, 1, (1,), (1,)),
    "one token, much context": AttentionCase("float16", 64, 3, (50,), (1,)),
    "no past fp32": AttentionCase("float32", 64, 3, (15, 16, 17), (15, 16, 17)),
    "no past fp16": AttentionCase("float16", 64, 3, (31, 32, 33), (31, 32, 33)),
    "past": AttentionCase("float16", 64, 4, (1, 21, 16, 48), (1, 5, 16, 17), num_kv_heads=2),
    "past, fp32, head_dim 128": AttentionCase("float32", 128, 1, (20, 49), (3, 16)),
    "group 8, head_dim 80": AttentionCase("float16", 80, 8, (33, 2), (3, 2)),
    "group 8, head_dim 128": AttentionCase("float16", 128, 8, (40,), (20,)),
    "group 3, several programs": AttentionCase("float16", 64, 3, (100, 5), (91, 1)),
    "group 20": AttentionCase("float16", 64, 20, (19,), (7,)),
    "bf16": AttentionCase("bfloat16", 64, 3, (37,), (6,)),
    "blocks of 8": AttentionCase("float32", 64, 4, (7, 8, 9, 30), (1, 8, 2, 9), block_size=8),
    "splits": AttentionCase("float32", 64, 4, (130, 9, 65), (2, 3, 1), split_tokens=64),
    "splits fp16": AttentionCase("float16", 80, 1, (100, 64), (3, 2), split_tokens=64),
    "a program spans splits": AttentionCase("float16", 64, 1, (80,), (80,), split_tokens=40),
    "a row sees nothing of a split": AttentionCase("float16", 64, 3, (20,), (9,), split_tokens=8),
}

#: Read through a table whose first block is the second sequence's: must not agree.
WRONG_TABLES = {
    "decode": AttentionCase("float32", 64, 3, (32, 32)),
    "prefill": AttentionCase("float16", 64, 3, (32, 32), (2, 1)),
}

#: A batch of decoding and prefilling sequences through the whole backend.
BACKENDS: dict[str, tuple[tuple[int, ...], tuple[tuple[int, int], ...]]] = {
    "decode and prefill": ((40, 17), ((30, 7), (5, 5))),
    "decode": ((16,), ()),
    "prefill": ((), ((20, 1),)),
}
