"""The kernels in the shapes used in practice, as their launchers would compile them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlkv_engine.paged.kernels import (
    block_copy,
    decode_attention,
    kv_write,
    prefill_attention,
    reduce_splits,
    tier_copy,
)
from rlkv_engine.paged.kernels.context_splits import MAX_SPLITS
from rlkv_engine.paged.kernels.paged_tile import TileShape, compute_dtype, padded_head_dim

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_NUM_KV_HEADS = 8
_BLOCK_SIZE = 16
_NUM_LAYERS = 32
#: Strides between tokens: whole rows of heads, so multiples of 16.
_ROW_STRIDES = ("query_stride", "out_stride", "key_stride", "value_stride")
#: Pointers into the middle of something.
_ANY_ALIGNMENT = ("device_ids_ptr", "host_ids_ptr")


@dataclass(frozen=True, slots=True)
class Variant:
    """A kernel with everything that is fixed when it is compiled, as its launcher fixes it."""

    name: str
    kernel: Any  # a triton.JITFunction
    types: Mapping[str, str]  #: of the arguments known only at launch
    constants: Mapping[str, Any]
    options: Mapping[str, int]  #: num_warps, num_stages

    def aligned(self) -> list[str]:
        """Arguments that are multiples of 16, which a launch finds out by itself."""
        pointers = [
            name
            for name, kind in self.types.items()
            if kind.startswith("*") and name not in _ANY_ALIGNMENT
        ]
        return pointers + [name for name in _ROW_STRIDES if name in self.types]


def all_variants(
    dtypes: Sequence[str] = ("fp16", "bf16"),
    head_dims: Sequence[int] = (64, 128),
    groups: Sequence[int] = (1, 3, 4, 8),
) -> Iterator[Variant]:
    """Every kernel for these models, with 8 KV heads, blocks of 16 tokens and 32 layers."""
    for dtype, head_dim in itertools.product(dtypes, head_dims):
        yield _write(dtype, head_dim)
        yield _reduce(dtype, head_dim)
        for group in groups:
            for split in (True, False):
                yield _decode(dtype, head_dim, group, split)
                # Chunks of one token, of a few, and long ones: as many rows as they need.
                found = (_prefill(dtype, head_dim, group, n, split) for n in (1, 8, 512))
                yield from {variant.name: variant for variant in found}.values()
    # The copies know bytes only.
    for head_dim in head_dims:
        yield from (_copy(head_dim, gather) for gather in (True, False))
        yield from (_tier_copy(head_dim, out) for out in (True, False))


def _write(dtype: str, head_dim: int) -> Variant:
    row = _NUM_KV_HEADS * head_dim
    tensors = dict.fromkeys(("key_ptr", "value_ptr", "kv_cache_ptr"), f"*{dtype}")
    strides = {"key_stride": "i32", "value_stride": "i32", "num_slots": "i32"}
    return Variant(
        f"kv_write {dtype} d{head_dim}",
        kv_write._write_kv_kernel,
        tensors | {"slot_mapping_ptr": "*i64"} | strides,
        {"ROW": row, "TILE": kv_write.write_tile(row)},
        {},
    )


def _copy(head_dim: int, gather: bool) -> Variant:
    run_bytes = _BLOCK_SIZE * _NUM_KV_HEADS * head_dim * 2
    word = block_copy.copy_word(run_bytes)
    run = run_bytes // word.itemsize
    return Variant(
        f"block_{'gather' if gather else 'scatter'} d{head_dim}",
        block_copy._copy_blocks_kernel,
        {
            "arena_ptr": "*i64",
            "staging_ptr": "*i64",
            "block_ids_ptr": "*i64",
            "num_blocks": "i32",
        },
        {
            "PLANES": 2 * _NUM_LAYERS,
            "RUN": run,
            "TILE": block_copy.copy_tile(run, word.itemsize),
            "GATHER": gather,
        },
        {},
    )


def _tier_copy(head_dim: int, out: bool) -> Variant:
    run_bytes = _BLOCK_SIZE * _NUM_KV_HEADS * head_dim * 2
    word = block_copy.copy_word(run_bytes)
    planes, run = 2 * _NUM_LAYERS, run_bytes // word.itemsize
    return Variant(
        f"tier_copy_{'out' if out else 'in'} d{head_dim}",
        tier_copy._copy_between_tiers_kernel,
        {
            "arena_ptr": "*i64",
            "host_ptr": "*i64",
            "device_ids_ptr": "*i32",
            "host_ids_ptr": "*i32",
            "num_blocks": "i32",
            "num_tiles": "i32",
        },
        {
            "PLANES": planes,
            "RUN": run,
            "TILE": tier_copy.copy_tile(planes * run, word.itemsize),
            "OUT": out,
        },
        {"num_warps": tier_copy.NUM_WARPS},
    )


def _decode(dtype: str, head_dim: int, group: int, split: bool) -> Variant:
    shape = decode_attention.decode_shape(group, DTYPES[dtype])
    return Variant(
        f"decode{'_split' if split else ''} {dtype} d{head_dim} g{group}",
        decode_attention._decode_kernel,
        _attention_types(dtype, split),
        _attention_constants(dtype, head_dim, group, split, shape),
        {"num_warps": shape.num_warps, "num_stages": shape.num_stages},
    )


def _prefill(dtype: str, head_dim: int, group: int, max_query_len: int, split: bool) -> Variant:
    shape = prefill_attention.prefill_shape(max_query_len, group, DTYPES[dtype])
    return Variant(
        f"prefill{'_split' if split else ''} {dtype} d{head_dim} g{group} rows{shape.rows}",
        prefill_attention._prefill_kernel,
        _attention_types(dtype, split) | {"cu_seqlens_q_ptr": "*i32"},
        _attention_constants(dtype, head_dim, group, split, shape),
        {"num_warps": shape.num_warps, "num_stages": shape.num_stages},
    )


def _reduce(dtype: str, head_dim: int) -> Variant:
    return Variant(
        f"reduce_splits {dtype} d{head_dim}",
        reduce_splits._reduce_splits_kernel,
        {
            "out_ptr": f"*{dtype}",
            "partial_ptr": "*fp32",
            "lse_ptr": "*fp32",
            "out_stride": "i32",
            "num_splits": "i32",
        },
        {
            "NUM_HEADS": _NUM_KV_HEADS,
            "HEAD_DIM": head_dim,
            "PADDED_DIM": padded_head_dim(head_dim),
            "MAX_SPLITS": MAX_SPLITS,
        },
        {},
    )


def _attention_types(dtype: str, split: bool) -> dict[str, str]:
    tensors = dict.fromkeys(("out_ptr", "query_ptr", "kv_cache_ptr"), f"*{dtype}")
    # A launch that does not split passes ``out`` for these.
    parts = dict.fromkeys(("partial_ptr", "lse_ptr"), "*fp32" if split else f"*{dtype}")
    numbers = ("query_stride", "out_stride", "table_stride", "num_blocks")
    return (
        tensors
        | parts
        | {"block_tables_ptr": "*i32", "context_lens_ptr": "*i32", "scale_log2": "fp32"}
        | dict.fromkeys((*numbers, "split_tokens", "num_splits"), "i32")
    )


def _attention_constants(
    dtype: str, head_dim: int, group: int, split: bool, shape: TileShape
) -> dict[str, Any]:
    return {
        "SPLIT": split,
        "NUM_KV_HEADS": _NUM_KV_HEADS,
        "GROUP": group,
        "ROWS": shape.rows,
        "TILE": shape.tile,
        "BLOCK_SIZE": _BLOCK_SIZE,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": padded_head_dim(head_dim),
        "COMPUTE": compute_dtype(DTYPES[dtype]),
    }
