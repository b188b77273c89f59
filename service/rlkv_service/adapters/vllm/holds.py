"""References to device blocks that are held for paused sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlkv_service.adapters.vllm.pool import Pool


class Holds:
    """Holds blocks for owners. A block may be held for several of them, with a reference each.

    Args:
        pool: whose blocks these are.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._of: dict[str, list[int]] = {}  # in the order of the context
        self._references: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, owner: str) -> bool:
        return owner in self._of

    @property
    def num_blocks(self) -> int:
        """Different blocks that are held."""
        return len(self._references)

    @property
    def owners(self) -> list[str]:
        """For whom anything is held."""
        return list(self._of)

    def of(self, owner: str) -> Sequence[int]:
        """What is held for an owner, in the order of the context."""
        return self._of.get(owner, ())

    def num_new(self, block_ids: Sequence[int]) -> int:
        """How many of these are not held yet."""
        return sum(block_id not in self._references for block_id in block_ids)

    def hold(self, owner: str, block_ids: Sequence[int]) -> None:
        """One more reference to each block, for an owner of whom nothing is held."""
        assert owner not in self._of, owner
        if block_ids:
            self._pool.touch(block_ids)
            self._of[owner] = list(block_ids)
            self._references.update(block_ids)

    def release(self, owner: str, keep: int = 0) -> list[int]:
        """Lets go of an owner's blocks from the end of the context on.

        Args:
            owner: of whom nothing may be held.
            keep: so many are still held, the first ones.

        Returns:
            Blocks that were let go, in the order of the context.
        """
        held = self._of.get(owner, [])
        gone = held[keep:]
        if not gone:
            return []
        if keep:
            self._of[owner] = held[:keep]
        else:
            del self._of[owner]
        for block_id in gone:
            self._references[block_id] -= 1
            if not self._references[block_id]:
                del self._references[block_id]
        # The beginning of a context is worth most: it is taken last.
        self._pool.free(reversed(gone))
        return gone

    def num_freed_by(self, owner: str, keep: int = 0) -> int:
        """Blocks that would be free if an owner's were let go, from ``keep`` on."""
        return sum(self._pool.num_references(block_id) == 1 for block_id in self.of(owner)[keep:])

    @property
    def num_freed_by_all(self) -> int:
        """Blocks that would be free if nothing was held."""
        return sum(
            self._pool.num_references(block_id) == held
            for block_id, held in self._references.items()
        )
