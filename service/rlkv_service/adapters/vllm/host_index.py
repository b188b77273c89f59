"""Which block is in which place of the host tier, and who has to leave it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from rlkv_service.adapters.vllm.victim_order import MOST_OWNERS, SHARED, KeysByReturn, VictimOrder


@dataclass(slots=True, eq=False)
class _Entry:
    slot: int
    is_ready: bool = False
    num_pins: int = 0  #: loads that read it
    is_dropped: bool = False  #: goes when nothing uses it any more


class HostIndex:
    """Blocks by hash in a number of places, each written once and read often.

    A block belongs to the session that has stored or used it last. When there is no room, the
    session expected back last gives up blocks, from the end of its context on; nobody does for a
    session that is expected back later.

    Args:
        num_slots: places.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
        self._entries: dict[bytes, _Entry] = {}
        self._dropped: dict[int, _Entry] = {}  # by slot: in use, but not found any more
        self._order = VictimOrder()
        self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, block_hash: bytes) -> bool:
        return block_hash in self._entries

    @property
    def num_free(self) -> int:
        """Places without a block."""
        return len(self._free)

    def is_ready(self, block_hash: bytes) -> bool:
        """Whether a block can be read."""
        entry = self._entries.get(block_hash)
        return entry is not None and entry.is_ready

    def num_ready(self, hashes: Sequence[bytes]) -> int:
        """How many of these can be read, from the first on."""
        for i, block_hash in enumerate(hashes):
            if not self.is_ready(block_hash):
                return i
        return len(hashes)

    def num_of(self, owner: str) -> int:
        """Blocks that belong to an owner."""
        return len(self._order.of(owner))

    def by_return(self, expected_back_s: Callable[[str], float]) -> KeysByReturn:
        """How many blocks could make room, by when their owners are expected back."""
        return self._order.by_return(expected_back_s, MOST_OWNERS)

    def put(
        self,
        owner: str,
        hashes: Sequence[bytes],
        expected_back_s: Callable[[str], float],
        spare: Collection[bytes] = (),
    ) -> list[int] | None:
        """Places for blocks that are not here yet; they cannot be read before ``stored``.

        Args:
            owner: to whom they belong.
            hashes: of the blocks, in the order of the context.
            expected_back_s: how long until an owner is back; infinite: he never is, or has no
                use for his blocks here.
            spare: blocks that must stay.

        Returns:
            A place for each; None: there is no room, and nothing has changed.
        """
        if len(hashes) > len(self._free):
            missing = len(hashes) - len(self._free)
            victims = self._victims(owner, missing, expected_back_s, spare)
            if victims is None:
                return None
            for block_hash in victims:
                self.drop(block_hash)
            self.num_evicted += len(victims)
        slots = sorted(self._free.pop() for _ in hashes)
        for block_hash, slot in zip(hashes, slots, strict=True):
            assert block_hash not in self._entries
            self._entries[block_hash] = _Entry(slot)
            self._order.add(owner, block_hash)
        return slots

    def _victims(
        self,
        owner: str,
        num: int,
        expected_back_s: Callable[[str], float],
        spare: Collection[bytes],
    ) -> list[bytes] | None:
        victims: list[bytes] = []
        own_s = expected_back_s(owner)
        for block_hash in self._order.victims(expected_back_s, own_s, MOST_OWNERS):
            entry = self._entries[block_hash]
            if entry.is_ready and not entry.num_pins and block_hash not in spare:
                victims.append(block_hash)
                if len(victims) == num:
                    return victims
        return None

    def stored(self, block_hash: bytes, slot: int) -> bool:
        """A place is written; whether its block can be read from now on."""
        entry = self._dropped.get(slot) or self._entries[block_hash]
        entry.is_ready = True
        self._settle(entry)
        return not entry.is_dropped

    def failed(self, block_hash: bytes, slot: int) -> None:
        """A place could not be written, or what was read from it is not the block."""
        entry = self._entries.get(block_hash)
        if entry is not None and entry.slot == slot:
            self.drop(block_hash)

    def release_unwritten(self, slot: int) -> None:
        """A place that was dropped before it was written will not be written any more."""
        entry = self._dropped[slot]
        entry.is_ready = True
        self._settle(entry)

    def pin(self, hashes: Sequence[bytes]) -> list[int]:
        """Places of blocks that are going to be read; they stay until ``unpin``."""
        slots = []
        for block_hash in hashes:
            entry = self._entries[block_hash]
            assert entry.is_ready
            entry.num_pins += 1
            slots.append(entry.slot)
        return slots

    def unpin(self, block_hash: bytes, slot: int) -> None:
        """A block was read."""
        entry = self._dropped.get(slot) or self._entries[block_hash]
        entry.num_pins -= 1
        self._settle(entry)

    def own(self, owner: str, hashes: Sequence[bytes]) -> None:
        """These belong to another owner from now on, where they are here."""
        for block_hash in hashes:
            if block_hash in self._entries:
                self._order.add(owner, block_hash)

    def leave(self, owner: str, is_used: Callable[[bytes], bool]) -> None:
        """An owner is gone: what others use becomes shared, the rest goes."""
        for block_hash in self._order.of(owner):
            if is_used(block_hash):
                self.own(SHARED, [block_hash])
            else:
                self.drop(block_hash)

    def drop(self, block_hash: bytes) -> None:
        """A block is not found any more; its place is free when nothing uses it."""
        entry = self._entries.pop(block_hash, None)
        if entry is not None:
            self._order.remove(block_hash)
            entry.is_dropped = True
            self._dropped[entry.slot] = entry
            self._settle(entry)

    def clear(self) -> None:
        """Drops everything."""
        for block_hash in list(self._entries):
            self.drop(block_hash)

    def _settle(self, entry: _Entry) -> None:
        if entry.is_dropped and entry.is_ready and not entry.num_pins:
            del self._dropped[entry.slot]
            self._free.append(entry.slot)

    def check_integrity(self) -> None:
        """Raises ``AssertionError`` where the books do not add up."""
        slots = [entry.slot for entry in self._entries.values()] + list(self._dropped) + self._free
        assert sorted(slots) == list(range(self.num_slots)), "places lost or given twice"
        assert len(self._order) == len(self._entries), "owners of blocks that are not here"
        assert all(self._order.owner_of(block_hash) is not None for block_hash in self._entries)
        for entry in self._dropped.values():
            assert not entry.is_ready or entry.num_pins, "a dropped place is not free"
