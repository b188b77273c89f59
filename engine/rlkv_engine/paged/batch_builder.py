"""From what the scheduler plans to the tensors that one forward pass reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkv_engine import state as S
from rlkv_engine.paged.attention_batch import AttentionBatch
from rlkv_engine.paged.block_tables import BlockTables
from rlkv_engine.paged.context import Context
from rlkv_engine.stepped import IterationPlan


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``[start, end)`` of a slot's context that are computed in this iteration."""

    slot: int
    context: Context
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One iteration: decoding slots, a token each, then chunks of prompts."""

    decodes: list[Chunk]
    prefills: list[Chunk]
    emits: list[Chunk]  #: those whose next token comes out, in the order of ``logit_rows``
    input_ids: Tensor  # [num_tokens] int64
    positions: Tensor  # [num_tokens] int64
    logit_rows: Tensor  # [num_emits] int64
    attention: AttentionBatch


def chunks_of(
    st: S.State, plan: IterationPlan, context_of: Callable[[int], Context]
) -> tuple[list[Chunk], list[Chunk]]:
    """Decodes and prefills of a started iteration; ``context_of`` is asked with a slot."""
    slots, iteration = st.slot, int(st.n[S.ITERATION])
    run = slots[S.RUN, : st.n[S.NUM_RUN]]
    decoding = run[(slots[S.PHASE, run] == S.DECODE) & (slots[S.STALLED, run] != iteration)]
    computed = slots[S.COMPUTED, decoding] + iteration - slots[S.SINCE, decoding]
    decodes = [
        Chunk(slot, context_of(slot), start, start + 1)
        for slot, start in zip(decoding.tolist(), computed.tolist(), strict=True)
    ]
    prefills = []
    slot_of = {
        sid: slot for slot, sid in zip(run.tolist(), slots[S.SID, run].tolist(), strict=True)
    }
    for sid, tokens in plan.rows(S.LOG_PREFILL):
        slot = slot_of[sid]
        start = int(slots[S.COMPUTED, slot])
        prefills.append(Chunk(slot, context_of(slot), start, start + tokens))
    return decodes, prefills


def build_batch(
    decodes: list[Chunk],
    prefills: list[Chunk],
    tables: BlockTables,
    block_size: int,
    device: torch.device,
) -> Batch:
    """The tensors of an iteration; ``prefills`` emit where they reach the end of their context."""
    chunks = decodes + prefills
    num_decode = len(decodes)
    ends = np.array([chunk.end for chunk in chunks], np.int64)
    lengths = np.array([chunk.end - chunk.start for chunk in chunks], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    row = np.repeat(np.arange(len(chunks)), lengths)
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - (ends - lengths), lengths)
    token_ids = np.concatenate([chunk.context.array(chunk.start, chunk.end) for chunk in chunks])
    widest = -(-int(ends.max()) // block_size)
    block_tables = tables.device[[chunk.slot for chunk in chunks], :widest]
    blocks = block_tables[row, positions // block_size].astype(np.int64)
    slot_mapping = blocks * block_size + positions % block_size
    emits = [i for i, chunk in enumerate(chunks) if chunk.end == len(chunk.context.tokens)]
    cu_seqlens = offsets[num_decode:] - offsets[num_decode]
    return Batch(
        decodes,
        prefills,
        [chunks[i] for i in emits],
        _to(token_ids, device),
        _to(positions, device),
        _to(offsets[1:][emits] - 1, device),
        AttentionBatch(
            slot_mapping=_to(slot_mapping, device),
            num_decode=num_decode,
            decode_block_tables=_to(
                _columns(block_tables, ends, 0, num_decode, block_size), device
            ),
            decode_lens=_to(ends[:num_decode].astype(np.int32), device),
            prefill_block_tables=_to(
                _columns(block_tables, ends, num_decode, len(chunks), block_size), device
            ),
            prefill_cu_seqlens=_to(cu_seqlens.astype(np.int32), device),
            prefill_lens=_to(ends[num_decode:].astype(np.int32), device),
            decode_lens_cpu=ends[:num_decode].tolist(),
            prefill_lens_cpu=ends[num_decode:].tolist(),
            prefill_cu_seqlens_cpu=cu_seqlens.tolist(),
        ),
    )


def _columns(
    tables: NDArray[np.int32], ends: NDArray[np.int64], first: int, last: int, block_size: int
) -> NDArray[np.int32]:
    # No wider than the longest of these contexts.
    if first == last:
        return tables[first:last, :0]
    return tables[first:last, : -(-int(ends[first:last].max()) // block_size)]


def _to(values: NDArray[np.int64] | NDArray[np.int32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)
