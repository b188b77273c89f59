"""The blocks of one tier by name: who may write to which, and what can still be found in them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.errors import IntegrityError


class BlockPool:
    """Blocks ``0 .. num_blocks - 1`` with counted references and content that outlives its owner.

    A block is free while nobody refers to it. Free blocks are given out from the front of a list:
    blocks whose content nobody can find first, then the one freed longest ago, so that what was
    computed stays findable for as long as the space is not needed. The order and the names follow
    vLLM's ``v1/core/block_pool.py``.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = np.zeros(num_blocks, np.int32)
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._digest: dict[int, bytes] = {}  # of blocks that can be found
        self._block: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody refers to."""
        return len(self._free)

    def num_references(self, block: int) -> int:
        """How many tables refer to a block."""
        return int(self._references[block])

    def take(self, count: int) -> NDArray[np.int32]:
        """Blocks for new content, shape ``[count]``; what was in them can be found no more.

        Raises:
            IntegrityError: fewer are free; the books of the scheduler and of this pool disagree.
        """
        if count > len(self._free):
            raise IntegrityError(f"{count} blocks are wanted, {len(self._free)} are free")
        taken = np.empty(count, np.int32)
        for i in range(count):
            block, _ = self._free.popitem(last=False)
            self.forget(block)
            taken[i] = block
        self._references[taken] = 1
        return taken

    def share(self, block: int) -> None:
        """One more table refers to a block, which may be a free one."""
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """A table refers to these blocks no longer; the first of them is given out again last.

        So the end of a context is overwritten before its beginning, which is the part that others
        may share.
        """
        for block in reversed(list(map(int, blocks))):
            left = int(self._references[block]) - 1
            if left < 0:
                raise IntegrityError(f"block {block} is released by a table that does not have it")
            self._references[block] = left
            if left == 0:
                self._free[block] = None
                if block not in self._digest:
                    self._free.move_to_end(block, last=False)

    def remember(self, block: int, digest: bytes) -> None:
        """The content of a full block can be found by its digest from now on.

        Where another block has the same content already, that one stays the one to be found.
        """
        if digest not in self._block:
            self.forget(block)
            self._block[digest] = block
            self._digest[block] = digest

    def find(self, digest: bytes) -> int | None:
        """The block with this content; None where there is none."""
        return self._block.get(digest)

    def forget(self, block: int) -> None:
        """The content of a block is about to change."""
        digest = self._digest.pop(block, None)
        if digest is not None:
            del self._block[digest]

    def check_integrity(self, references: NDArray[np.int64]) -> None:
        """Raises ``IntegrityError`` unless blocks have these references, ``[num_blocks]``."""
        wrong = np.flatnonzero(self._references != references)
        if len(wrong):
            block = int(wrong[0])
            raise IntegrityError(
                f"block {block} counts {self._references[block]} references,"
                f" the tables have {references[block]}"
            )
        free = np.flatnonzero(references == 0)
        if sorted(self._free) != free.tolist():
            raise IntegrityError(f"{len(self._free)} blocks are listed as free, {len(free)} are")
        for block, digest in self._digest.items():
            if self._block.get(digest) != block:
                raise IntegrityError(f"block {block} cannot be found by its own digest")
