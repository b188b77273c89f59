"""Attention over a paged cache in plain torch: the reference, and what half precision uses.

Decoding gathers the blocks of many sequences at once and attends to them in one call. Sequences of
very different length would be padded to the longest, so they are put in groups of similar length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rlkv_engine.paged.attention_batch import AttentionBatch

#: A group takes sequences down to this part of the blocks of its longest: with shorter ones, the
#: padding costs more than another call.
MIN_LENGTH_RATIO = 0.5


class _Gather:
    """Copies of blocks, side by side; one buffer serves every layer of an iteration."""

    def __init__(self, block_tables: Tensor, kv_cache: Tensor):
        num_blocks = kv_cache.shape[1]
        tables = block_tables.long()  # [group, blocks]
        self._index = torch.cat((tables, tables + num_blocks)).flatten()
        self._buffer = kv_cache.new_empty(len(self._index), kv_cache[0, 0].numel())
        self._shape = (2, len(tables), -1, *kv_cache.shape[3:])

    def __call__(self, kv_cache: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values, each ``[group, num_kv_heads, length, head_dim]``."""
        blocks = kv_cache.view(-1, self._buffer.shape[1])
        torch.index_select(blocks, 0, self._index, out=self._buffer)
        keys, values = self._buffer.view(self._shape)[:, :, :length].transpose(2, 3)
        return keys, values


@dataclass(frozen=True, slots=True)
class _DecodeGroup:
    """Decoding sequences of similar length, attended to in one call."""

    #: Their rows among the decoding tokens; None is all of them, in order.
    rows: Tensor | None  # [group] int64
    gather: _Gather
    #: Tokens of the longest.
    length: int
    #: Added to the scores where lengths differ: -inf past the end of a sequence.
    mask: Tensor | None  # [group, 1, 1, length]


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Tokens of one sequence, the rows ``[start, end)`` of the batch, and what they see."""

    start: int
    end: int
    #: None where the chunk is the whole context, and the cache need not be read.
    gather: _Gather | None
    #: Tokens of context.
    length: int
    #: True where a query sees a token; None where the chunk is the whole context.
    mask: Tensor | None  # [chunk, length] bool


@dataclass(frozen=True, slots=True)
class _Plan:
    decode: list[_DecodeGroup]
    prefill: list[PrefillChunk]


def torch_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kv_cache: Tensor,
    batch: AttentionBatch,
    scale: float,
) -> Tensor:
    """Attention of one layer; see ``AttentionBackend``."""
    if batch.plan is None:
        batch.plan = _Plan(_decode_groups(batch, kv_cache), prefill_chunks(batch, kv_cache))
    plan: _Plan = batch.plan
    write_kv(key, value, kv_cache, batch)
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    for group in plan.decode:
        _decode_into(output[: batch.num_decode], query, kv_cache, group, scale)
    for chunk in plan.prefill:
        prefill_into(output, query, key, value, kv_cache, chunk, scale)
    return output


def write_kv(key: Tensor, value: Tensor, kv_cache: Tensor, batch: AttentionBatch) -> None:
    """Puts the KV of every token of the batch into its slot."""
    # A view, or an error: a copy would lose what is written.
    keys, values = kv_cache.view(2, -1, *kv_cache.shape[3:])  # [num_slots, num_kv_heads, head_dim]
    keys.index_copy_(0, batch.slot_mapping, key)
    values.index_copy_(0, batch.slot_mapping, value)


def prefill_into(
    output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kv_cache: Tensor,
    chunk: PrefillChunk,
    scale: float,
) -> None:
    """Writes the attention of one chunk into its rows of ``output``."""
    mine = slice(chunk.start, chunk.end)
    if chunk.gather is None:
        keys, values = key[mine].transpose(0, 1)[None], value[mine].transpose(0, 1)[None]
    else:
        keys, values = chunk.gather(kv_cache, chunk.length)
    attended = F.scaled_dot_product_attention(
        query[mine].transpose(0, 1)[None],
        keys,
        values,
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        scale=scale,
        enable_gqa=True,
    )  # [1, num_heads, chunk, head_dim]
    output[mine].copy_(attended[0].transpose(0, 1))


def prefill_chunks(batch: AttentionBatch, kv_cache: Tensor) -> list[PrefillChunk]:
    """What the chunks of a batch attend to, worked out once for all layers."""
    block_size, device = kv_cache.shape[2], kv_cache.device
    chunks = []
    for i, length in enumerate(batch.prefill_lens_cpu):
        start, end = batch.prefill_cu_seqlens_cpu[i : i + 2]
        gather = mask = None
        if end - start < length:
            table = batch.prefill_block_tables[i : i + 1, : -(-length // block_size)]
            gather = _Gather(table, kv_cache)
            position = torch.arange(length, device=device)
            mask = position <= position[start - end :, None]
        first, last = batch.num_decode + start, batch.num_decode + end
        chunks.append(PrefillChunk(first, last, gather, length, mask))
    return chunks


def _decode_into(
    output: Tensor, query: Tensor, kv_cache: Tensor, group: _DecodeGroup, scale: float
) -> None:
    """Writes the attention of one group into its rows of ``output``."""
    mine = query[: len(output)] if group.rows is None else query.index_select(0, group.rows)
    keys, values = group.gather(kv_cache, group.length)
    # The query heads that share a KV head stand where the tokens of a prompt would.
    shared = mine.reshape(len(mine), keys.shape[1], -1, keys.shape[3])
    attended = F.scaled_dot_product_attention(
        shared, keys, values, attn_mask=group.mask, scale=scale
    ).flatten(1, 2)  # [group, num_heads, head_dim]
    if group.rows is None:
        output.copy_(attended)
    else:
        output.index_copy_(0, group.rows, attended)


def _decode_groups(batch: AttentionBatch, kv_cache: Tensor) -> list[_DecodeGroup]:
    block_size, device = kv_cache.shape[2], kv_cache.device
    counts = [-(-length // block_size) for length in batch.decode_lens_cpu]
    groups = []
    for rows in group_by_length(counts):
        lens = [batch.decode_lens_cpu[row] for row in rows]
        length = max(lens)
        index = torch.tensor(rows, device=device)
        mask = None
        if min(lens) < length:
            past_end = torch.arange(length, device=device) >= batch.decode_lens[index, None]
            mask = kv_cache.new_zeros(past_end.shape).masked_fill_(past_end, -torch.inf)
            mask = mask[:, None, None]
        everyone = len(rows) == batch.num_decode
        tables = batch.decode_block_tables[index, : max(counts[row] for row in rows)]
        gather = _Gather(tables, kv_cache)
        groups.append(_DecodeGroup(None if everyone else index, gather, length, mask))
    return groups


def group_by_length(num_blocks: list[int]) -> list[list[int]]:
    """Rows of sequences in groups, none shorter than ``MIN_LENGTH_RATIO`` of its longest.

    Args:
        num_blocks: Blocks of each sequence.
    """
    groups: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(num_blocks)), key=lambda row: -num_blocks[row]):
        if not groups or num_blocks[row] < MIN_LENGTH_RATIO * longest:
            groups.append([])
            longest = num_blocks[row]
        groups[-1].append(row)
    return [sorted(group) for group in groups]
