"""What scheduler and workers say to each other about copies between the tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class CopyOrder:
    """Blocks of the device and their places on the host, one for one."""

    job: int
    block_ids: Sequence[int]
    slots: Sequence[int]
    keys: Sequence[bytes]  #: what the blocks are; a place remembers it


@dataclass(slots=True)
class CopyOrders:
    """Of one step."""

    #: Before anything of this step is written: their blocks have new owners already.
    urgent_stores: list[CopyOrder] = field(default_factory=list)
    #: Before the model runs: it reads these.
    loads: list[CopyOrder] = field(default_factory=list)
    #: Any time: their blocks are held until they are done.
    stores: list[CopyOrder] = field(default_factory=list)
    #: Blocks that were promised and cannot be loaded.
    lost_block_ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class CopyReport:
    """What workers have done since the last report; several workers' reports add up."""

    num_done: dict[int, int] = field(default_factory=dict)  #: workers that are done, by job
    failed: set[int] = field(default_factory=set)  #: jobs of which a block failed
    out_blocks: int = 0
    out_s: float = 0.0
    in_blocks: int = 0
    in_s: float = 0.0

    def refuse(self, order: CopyOrder) -> None:
        """This worker cannot carry out an order."""
        self.num_done[order.job] = 1
        self.failed.add(order.job)

    def add(self, other: CopyReport) -> None:
        """Another worker's report of the same step."""
        for job, num in other.num_done.items():
            self.num_done[job] = self.num_done.get(job, 0) + num
        self.failed |= other.failed
        self.out_blocks += other.out_blocks
        self.out_s += other.out_s
        self.in_blocks += other.in_blocks
        self.in_s += other.in_s

    def __bool__(self) -> bool:
        return bool(self.num_done)
