"""Which blocks each slot of the scheduler has on either tier.

The scheduler counts blocks (docs/decisions/0001-blocks-are-counted-not-named.md); here the counts
get names. A slot's device table is ``device[slot, :num_device[slot]]``; its host table is
``host[slot, host_lo[slot]:host_hi[slot]]``, by position in the context like the device's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkv_engine import state as S
from rlkv_engine.errors import IntegrityError
from rlkv_engine.paged.block_pool import BlockPool

_NOBODY = -1


class BlockTables:
    """Block tables of all slots, kept equal to what the scheduler counts.

    Args:
        num_device_blocks: blocks of the device arena.
        num_host_blocks: blocks of the host arena.
        max_blocks: longest table of a slot.
    """

    def __init__(self, num_device_blocks: int, num_host_blocks: int, max_blocks: int) -> None:
        self.device_pool = BlockPool(num_device_blocks)
        self.host_pool = BlockPool(num_host_blocks)
        self._owner = np.zeros(0, np.int64)
        self.num_device = np.zeros(0, np.int64)
        self.host_lo = np.zeros(0, np.int64)
        self.host_hi = np.zeros(0, np.int64)
        self.device = np.zeros((0, max_blocks), np.int32)
        self.host = np.zeros((0, max_blocks), np.int32)

    def follow(self, st: S.State, first_sid: int = 0) -> None:
        """Give and take blocks until every table is as long as the scheduler says.

        No copy may be under way: what a table loses here is given to the next who asks. What a slot
        keeps, keeps its content. Host tables only shrink; they grow by ``grow_host``. Sessions are
        told apart by their number, which is ``first_sid`` more than the state's.
        """
        slots = st.slot
        self._add_slots(slots.shape[1])
        owner = np.where(slots[S.PHASE] == S.EMPTY, _NOBODY, slots[S.SID] + first_sid)
        for slot in np.flatnonzero(owner != self._owner).tolist():
            self._shrink_device(slot, 0)
            self._keep_host(slot, 0, 0)
            self._owner[slot] = owner[slot]
        live = owner != _NOBODY
        low = np.where(live, slots[S.HOST_LO], 0)
        high = np.where(live, slots[S.HOST_HI], 0)
        # An empty interval stands anywhere.
        low, high = np.where(high > low, low, 0), np.where(high > low, high, 0)
        for slot in np.flatnonzero((low != self.host_lo) | (high != self.host_hi)).tolist():
            self._keep_host(slot, int(low[slot]), int(high[slot]))
        wanted = np.where(live, slots[S.DEV], 0)
        for slot in np.flatnonzero(wanted < self.num_device).tolist():
            self._shrink_device(slot, int(wanted[slot]))
        for slot in np.flatnonzero(wanted > self.num_device).tolist():
            have, want = int(self.num_device[slot]), int(wanted[slot])
            self.device[slot, have:want] = self.device_pool.take(want - have)
            self.num_device[slot] = want

    def grow_host(self, slot: int, low: int, high: int) -> NDArray[np.int64]:
        """The host table of a slot gets as long as ``[low, high)``; positions that are new.

        The positions are ascending, shape ``[num_new]``; the blocks have no content yet.
        """
        old_low, old_high = int(self.host_lo[slot]), int(self.host_hi[slot])
        if old_low == old_high:
            old_low = old_high = high
        if low > old_low or high < old_high:
            raise IntegrityError(
                f"slot {slot} has [{old_low}, {old_high}) on the host, which is no part of"
                f" [{low}, {high})"
            )
        new = np.concatenate([np.arange(low, old_low), np.arange(old_high, high)])
        self.host[slot, new] = self.host_pool.take(len(new))
        self.host_lo[slot], self.host_hi[slot] = low, high
        return new

    def share_device(self, slot: int, position: int, block: int) -> None:
        """A slot uses a block that has the content it needs, in place of its own."""
        self.device_pool.share(block)
        self.device_pool.release([self.device[slot, position]])
        self.device[slot, position] = block

    def check_integrity(self, st: S.State) -> None:
        """Raises ``IntegrityError`` where tables, pools and the scheduler's counts disagree."""
        live = st.slot[S.PHASE] != S.EMPTY
        count = len(self._owner)
        counted = (
            ("device blocks", np.where(live, st.slot[S.DEV], 0), self.num_device),
            (
                "host blocks",
                np.where(live, st.slot[S.HOST_HI] - st.slot[S.HOST_LO], 0),
                self.host_hi - self.host_lo,
            ),
        )
        for what, wanted, have in counted:
            wrong = np.flatnonzero(wanted[:count] != have)
            if len(wrong) or np.any(wanted[count:]):
                slot = int(wrong[0]) if len(wrong) else count
                raise IntegrityError(f"slot {slot}: {what} and their table disagree")
        for pool, tables, low, high in (
            (self.device_pool, self.device, np.zeros_like(self.num_device), self.num_device),
            (self.host_pool, self.host, self.host_lo, self.host_hi),
        ):
            position = np.arange(tables.shape[1])
            used = (position >= low[:, None]) & (position < high[:, None])
            pool.check_integrity(np.bincount(tables[used], minlength=pool.num_blocks))
            if pool is self.host_pool and len(np.unique(tables[used])) != int(used.sum()):
                raise IntegrityError("a host block is in two tables")

    def _shrink_device(self, slot: int, want: int) -> None:
        self.device_pool.release(self.device[slot, want : self.num_device[slot]])
        self.num_device[slot] = want

    def _keep_host(self, slot: int, low: int, high: int) -> None:
        old_low, old_high = int(self.host_lo[slot]), int(self.host_hi[slot])
        if high == low:
            low = high = old_high
        if low < old_low or high > old_high:
            raise IntegrityError(
                f"slot {slot} has [{old_low}, {old_high}) on the host, the scheduler counts"
                f" [{low}, {high})"
            )
        self.host_pool.release(self.host[slot, old_low:low])
        self.host_pool.release(self.host[slot, high:old_high])
        self.host_lo[slot], self.host_hi[slot] = (low, high) if high > low else (0, 0)

    def _add_slots(self, num_slots: int) -> None:
        more = num_slots - len(self._owner)
        if more <= 0:
            return
        self._owner = np.concatenate([self._owner, np.full(more, _NOBODY)])
        for name in ("num_device", "host_lo", "host_hi"):
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more, np.int64)]))
        for name in ("device", "host"):
            table = getattr(self, name)
            new = np.zeros((more, table.shape[1]), np.int32)
            setattr(self, name, np.concatenate([table, new]))
