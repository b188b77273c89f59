"""Into how many parts attention splits the contexts of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: A part's tokens are a multiple of this, which is a multiple of every kernel's tile.
_STEP = 64
#: Shorter parts cost more to put together than they gain.
_MIN_SPLIT_TOKENS = 128
#: Programs that a processor works on at a time, about: as many as its registers hold.
_PROGRAMS_PER_PROCESSOR = 4
#: What ``reduce_splits`` reads in one load.
MAX_SPLITS = 128
#: Splits times tokens at most, which bounds the buffer of parts: 64 MiB at 32 heads of 128.
_MAX_PARTS = 4096


@dataclass(frozen=True, slots=True)
class ContextSplits:
    """Parts of ``split_tokens`` each, ``num_splits`` of them in the longest context of a batch.

    Must cover every context: ``split_tokens * num_splits >= max(context_lens)``.
    """

    split_tokens: int
    num_splits: int


def split_contexts(
    context_lens: Sequence[int], programs: Sequence[int], num_tokens: int, num_processors: int
) -> ContextSplits:
    """Parts of equal length for all sequences, so that a long one does not outlast the others.

    They are as long as they can be with enough of them to fill the device. (FlashDecoding and
    vLLM's ``kernel_unified_attention`` give every sequence the same number of parts instead.)

    Args:
        context_lens: Tokens of each context, at least one context.
        programs: Programs that work on each context where it is not split.
        num_tokens: Query tokens of the batch.
        num_processors: Streaming multiprocessors of the device.
    """
    longest = max(context_lens)
    work = sum(length * count for length, count in zip(context_lens, programs, strict=True))
    wanted = max(_MIN_SPLIT_TOKENS, work / (_PROGRAMS_PER_PROCESSOR * num_processors))
    most = max(1, min(MAX_SPLITS, _MAX_PARTS // num_tokens))
    num_splits = min(max(1, round(longest / wanted)), most)
    # Even parts; as they are rounded up there may be fewer of them.
    split_tokens = -(-longest // (num_splits * _STEP)) * _STEP
    return ContextSplits(split_tokens, -(-longest // split_tokens))
