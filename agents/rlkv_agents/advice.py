"""The rule's constants for a machine nobody tuned it for: from machines that are like it.

Many machines ran the same candidates; the advice for another one is the candidate with the least
regret there, every machine weighted by how near it is (Nadaraya, 1964, with a Gaussian kernel).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.house_rule import House
from rlkv_engine.estimates import PauseTable
from rlkv_engine.victim_order import NUM_ORDER_TERMS

#: What every candidate has a value of.
CONSTANTS = ("slack_ratio", "guard_pauses", "swap_ratio", "write_through", "new_swaps")
#: Values that all machines try: a coarser grid than that of tuning.
GRID: Mapping[str, Sequence[float]] = {
    "slack_ratio": (0.0, 0.003, 0.012),
    "guard_pauses": (0.0, 0.5, 1.0, 2.0),
    "swap_ratio": (2.0, 4.0, 8.0),
    "write_through": (0.0, 1.0),
}
#: What a machine is known by, each in octaves: see ``describe``.
DESCRIPTION = ("host_over_device", "copy_over_recompute", "pause_over_pool", "pause_skew")
#: Width of the kernel in octaves.
BANDWIDTH = 0.7


class Machine(Protocol):
    """What of a ``Profile`` tells machines apart; see there for the units."""

    @property
    def block_size(self) -> int: ...  # noqa: D102
    @property
    def num_device_blocks(self) -> int: ...  # noqa: D102
    @property
    def num_host_blocks(self) -> int: ...  # noqa: D102
    @property
    def prefill_token_s(self) -> float: ...  # noqa: D102
    @property
    def prefill_token_context_s(self) -> float: ...  # noqa: D102
    @property
    def swap_out_block_s(self) -> float: ...  # noqa: D102
    @property
    def swap_in_block_s(self) -> float: ...  # noqa: D102


def candidates(tuned: Sequence[House] = ()) -> list[House]:
    """The rules of the grid, and what tuning chose for machines, each once."""
    grid = [
        House(**dict(zip(GRID, values, strict=True)))
        for values in itertools.product(*GRID.values())
    ]
    return list(dict.fromkeys([*grid, *tuned]))


def describe(machine: Machine, table: PauseTable) -> NDArray[np.float64]:
    """A machine and its pauses as numbers in octaves, shape ``[len(DESCRIPTION)]``.

    Host over device pool; copying a block out and in over recomputing it, in a context of an eighth
    of the pool; mean pause over the time to compute the whole pool; mean over median pause.
    """
    tokens = machine.num_device_blocks * machine.block_size
    recompute_s = machine.block_size * (
        machine.prefill_token_s + machine.prefill_token_context_s * tokens / 8.0
    )
    copy_s = machine.swap_out_block_s + machine.swap_in_block_s
    median_s = float(table.quantiles_s[-1][50])
    return np.log2(
        [
            machine.num_host_blocks / machine.num_device_blocks + 0.02,
            copy_s / recompute_s,
            table.mean_pause_s / (tokens * machine.prefill_token_s),
            table.mean_pause_s / max(median_s, 1e-3),
        ]
    )


@dataclass(frozen=True, slots=True, eq=False)
class Advice:
    """What every candidate cost on every machine."""

    constants: NDArray[np.float64]  #: of the candidates, [num_candidates, len(CONSTANTS)]
    machines: NDArray[np.float64]  #: [num_machines, len(DESCRIPTION)], see ``describe``
    #: Log of a candidate's latency over that of the machine's best, [num_machines, num_candidates].
    regret: NDArray[np.float64]
    #: Orders of victims that were learnt, the plain one first, [num_orders, NUM_ORDER_TERMS].
    orders: NDArray[np.float64]
    #: Log of the latency with an order over that with the plain one, both with the constants
    #: advised there, [num_machines, num_orders].
    order_regret: NDArray[np.float64]
    #: 1 where the machine's best policy leaves the rule, 0 where it is a rule, [num_machines].
    departs: NDArray[np.float64]

    @classmethod
    def of_constants(
        cls, rules: Sequence[House], machines: NDArray[np.float64], regret: NDArray[np.float64]
    ) -> Advice:
        """Advice on constants alone: no order, and nowhere to leave the rule."""
        constants = np.array([[getattr(rule, name) for name in CONSTANTS] for rule in rules])
        num = len(machines)
        plain = np.zeros((1, NUM_ORDER_TERMS))
        return cls(constants, machines, regret, plain, np.zeros((num, 1)), np.zeros(num))

    def rule_for(self, machine: Machine, table: PauseTable) -> House:
        """The rule with the least expected regret on a machine, and the order likewise."""
        weight = self._weight(machine, table)
        constants = self.constants[int(np.argmin(weight @ self.regret))]
        # Bundles hold them in single precision.
        rule = House(**{n: float(f"{c:.6g}") for n, c in zip(CONSTANTS, constants, strict=True)})
        return rule.with_order(self.orders[int(np.argmin(weight @ self.order_regret))])

    def may_depart(self, machine: Machine, table: PauseTable) -> bool:
        """Is leaving the rule right on most of the machines that are like this one?"""
        weight = self._weight(machine, table)
        return float(weight @ self.departs) >= 0.5 * float(weight.sum())

    def _weight(self, machine: Machine, table: PauseTable) -> NDArray[np.float64]:
        squares = ((self.machines - describe(machine, table)) ** 2).sum(axis=1)
        # Far from all of them the nearest still counts: only differences of distances matter.
        return np.asarray(np.exp(-(squares - squares.min()) / (2.0 * BANDWIDTH**2)))

    def distance(self, machine: Machine, table: PauseTable) -> float:
        """Octaves to the nearest machine known."""
        return math.sqrt(((self.machines - describe(machine, table)) ** 2).sum(axis=1).min())

    def without(self, machine: int) -> Advice:
        """What would be known without one of the machines: what its advice is worth elsewhere."""
        kept = np.arange(len(self.machines)) != machine
        return Advice(
            self.constants,
            self.machines[kept],
            self.regret[kept],
            self.orders,
            self.order_regret[kept],
            self.departs[kept],
        )
