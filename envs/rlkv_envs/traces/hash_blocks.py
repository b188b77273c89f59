"""Prefixes shared by prompts that are known only as lists of block hashes."""

from __future__ import annotations

from collections.abc import Sequence


def num_common_blocks(before: Sequence[int], after: Sequence[int]) -> int:
    """Length of the longest common prefix of two lists of hash ids, in blocks."""
    if before == after[: len(before)]:  # the usual case: the context only grew
        return len(before)
    for index, (a, b) in enumerate(zip(before, after, strict=False)):
        if a != b:
            return index
    return min(len(before), len(after))
