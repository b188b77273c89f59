"""vLLM's block pool under the names that the plug-in uses.

Read in vLLM 0.32.0: ``v1/core/block_pool.py`` (``touch``, ``free_blocks``, ``evict_blocks``,
``get_cached_block``, ``reset_prefix_cache``) and ``v1/core/kv_cache_utils.py``
(``get_block_hash``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import BlockHash, get_block_hash

#: The only group of KV caches that there is.
_GROUP = [0]


class VllmPool:
    """A ``pool.Pool``.

    Args:
        pool: the engine's.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool

    @property
    def num_blocks(self) -> int:
        """All but the null block."""
        return int(self._pool.num_gpu_blocks) - 1

    @property
    def num_free(self) -> int:
        """Without a reference."""
        return int(self._pool.get_num_free_blocks())

    def num_references(self, block_id: int) -> int:
        """References to a block."""
        return int(self._pool.blocks[block_id].ref_cnt)

    def hash_of(self, block_id: int) -> bytes | None:
        """What a block is found by."""
        with_group = self._pool.blocks[block_id].block_hash
        return None if with_group is None else get_block_hash(with_group)

    def find(self, block_hash: bytes) -> int | None:
        """A block of that hash."""
        found = self._pool.get_cached_block(BlockHash(block_hash), _GROUP)
        return int(found[0].block_id) if found else None

    def touch(self, block_ids: Iterable[int]) -> None:
        """One more reference to each."""
        self._pool.touch([self._pool.blocks[block_id] for block_id in block_ids])

    def free(self, block_ids: Iterable[int]) -> None:
        """One reference less to each."""
        self._pool.free_blocks([self._pool.blocks[block_id] for block_id in block_ids])

    def drop_hashes(self, block_ids: Iterable[int]) -> None:
        """Nobody finds these any more."""
        self._pool.evict_blocks(set(block_ids))


def yield_to_reset(
    pool: BlockPool, before: Callable[[], object], after: Callable[[], object]
) -> None:
    """Lets go of what is held before the pool resets its cache.

    A reset refuses while blocks are in use, and ``pause_generation`` and ``sleep`` fail if it
    does; no hook of a connector runs before it. So this pool's own method is called from one that
    lets go first. vLLM itself is left as it is.

    Args:
        pool: the engine's.
        before: lets go; never raises.
        after: the cache is empty; never raises.
    """
    reset = pool.reset_prefix_cache

    def reset_prefix_cache() -> bool:
        before()
        done = bool(reset())
        if done:
            after()
        return done

    pool.reset_prefix_cache = reset_prefix_cache
