"""What one iteration computes: which tokens, in which slots, over which blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Span(NamedTuple):
    """The tokens ``[start, end)`` of one sequence, whose KV lies in the blocks of its table."""

    block_table: Sequence[int] | npt.NDArray[np.int32]
    start: int
    end: int


@dataclass(slots=True)
class AttentionBatch:
    """The tokens of one iteration, flattened: one per decoding sequence, then chunks of prefill.

    A sequence attends to everything in its blocks up to and including its own tokens of this
    iteration, whose KV is written first.
    """

    #: Where the KV of each token goes: block id * block size + offset.
    slot_mapping: Tensor  # [num_tokens] int64
    num_decode: int
    decode_block_tables: Tensor  # [num_decode, max_blocks] int32, padded with 0
    #: Tokens of context, with the one of this iteration.
    decode_lens: Tensor  # [num_decode] int32
    prefill_block_tables: Tensor  # [num_prefill, max_blocks] int32, padded with 0
    #: Offsets into the tokens of prefill: 0 is the first token after the decoding ones.
    prefill_cu_seqlens: Tensor  # [num_prefill + 1] int32
    #: Tokens of context, with those of this chunk, which are the last ones.
    prefill_lens: Tensor  # [num_prefill] int32
    # The same numbers on the host, so that nobody waits for the device to read them.
    decode_lens_cpu: list[int]
    prefill_lens_cpu: list[int]
    prefill_cu_seqlens_cpu: list[int]
    #: What a backend works out once for all layers; its own business.
    plan: Any = field(default=None, repr=False)

    @classmethod
    def from_spans(
        cls,
        decodes: Sequence[Span],
        prefills: Sequence[Span],
        *,
        block_size: int,
        device: torch.device | str = "cpu",
    ) -> AttentionBatch:
        """Builds the batch from the sequences that run, decoding ones first.

        Raises:
            ValueError: A span is empty, longer than one token where it decodes, or longer than
                the blocks of its table.
        """
        for span in (*decodes, *prefills):
            if not 0 <= span.start < span.end <= len(span.block_table) * block_size:
                raise ValueError(
                    f"tokens [{span.start}, {span.end}) do not fit "
                    f"{len(span.block_table)} blocks of {block_size}"
                )
        if any(span.end - span.start != 1 for span in decodes):
            raise ValueError("a decoding sequence computes one token")
        slots = [_slots(span, block_size) for span in (*decodes, *prefills)]
        cu_seqlens = [0, *np.cumsum([span.end - span.start for span in prefills]).tolist()]
        decode_lens = [span.end for span in decodes]
        prefill_lens = [span.end for span in prefills]

        def on_device(numbers: Any, dtype: type = np.int32) -> Tensor:
            return torch.from_numpy(np.asarray(numbers, dtype)).to(device)

        return cls(
            slot_mapping=on_device(np.concatenate(slots) if slots else [], np.int64),
            num_decode=len(decodes),
            decode_block_tables=on_device(_padded_tables(decodes, block_size)),
            decode_lens=on_device(decode_lens),
            prefill_block_tables=on_device(_padded_tables(prefills, block_size)),
            prefill_cu_seqlens=on_device(cu_seqlens),
            prefill_lens=on_device(prefill_lens),
            decode_lens_cpu=decode_lens,
            prefill_lens_cpu=prefill_lens,
            prefill_cu_seqlens_cpu=cu_seqlens,
        )


def _slots(span: Span, block_size: int) -> npt.NDArray[np.int64]:
    token = np.arange(span.start, span.end)
    blocks = np.asarray(span.block_table, np.int64)
    return blocks[token // block_size] * block_size + token % block_size


def _padded_tables(spans: Sequence[Span], block_size: int) -> npt.NDArray[np.int32]:
    counts = [-(-span.end // block_size) for span in spans]
    tables = np.zeros((len(spans), max(counts, default=0)), np.int32)
    for row, span, count in zip(tables, spans, counts, strict=True):
        row[:count] = span.block_table[:count]
    return tables
