"""The house rule, which learning starts at and engines fall back to, and what it is at best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.base_rule import Rule
from rlkv_engine import rule as R
from rlkv_engine.estimates import BY_TRUTH, PauseTable
from rlkv_engine.state import DISCARD, PRESERVE, SWAP
from rlkv_engine.victim_order import ORDER_TERMS

#: Constants that are weights of a learned order begin with this.
ORDER_PREFIX = "order_"


@dataclass(frozen=True, slots=True)
class House(Rule):
    """The strongest rule known: lazy, swap by requester, admission guard, write-through at will.

    For a returning or growing session a victim is copied out only where its memory is free, all
    that is being swapped out already included, in less than ``swap_ratio`` times recomputing it;
    otherwise it is discarded, which frees at once. A new session may not take from one expected
    back within ``guard_pauses`` mean pauses.
    """

    name: ClassVar[str] = "house"
    source: ClassVar[str] = "docs/decisions/0003-the-house-rule.md"
    grid: ClassVar[Mapping[str, Sequence[float]]] = {
        **Rule.grid,
        "guard_pauses": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
        "swap_ratio": (0.0, 2.0, 4.0, 8.0, 1e9),
        "write_through": (0.0, 1.0),
        "new_swaps": (0.0, 1.0),
    }
    guard_pauses: float = 1.0
    swap_ratio: float = 4.0
    write_through: float = 0.0
    new_swaps: float = 1.0
    # Weights of a learned order of victims (rlkv_engine/victim_order.py). Too many for a grid:
    # order_learning.py finds them.
    order_remaining: float = 0.0
    order_soon: float = 0.0
    order_elapsed: float = 0.0
    order_turns: float = 0.0
    order_attained: float = 0.0
    order_context: float = 0.0
    order_firm: float = 0.0
    order_dirty: float = 0.0
    order_new_turns: float = 0.0

    @property
    def order(self) -> NDArray[np.float64]:
        """The weights of the order, shape ``[NUM_ORDER_TERMS]``; all 0: by expected remainder."""
        return np.array([getattr(self, f"{ORDER_PREFIX}{term.name}") for term in ORDER_TERMS])

    @property
    def has_order(self) -> bool:
        """Whether an order was learnt for it."""
        return bool(self.order.any())

    def in_plain_order(self) -> House:
        """This rule with victims by expected remainder."""
        return self.with_order(np.zeros(len(ORDER_TERMS)))

    def discarding(self) -> House:
        """The rule that discards for who returns or grows, all else as it is: the bolder start.

        A rule that is tuned well is a local optimum, where no single departure pays: behind the
        slow link nothing is learnt from there, and a third less latency than the tuned rule's from
        here.
        """
        return replace(self, swap_ratio=0.0).in_plain_order()

    def with_order(self, weights: NDArray[np.float64]) -> House:
        """This rule with another order of victims."""
        pairs = zip(ORDER_TERMS, weights, strict=True)
        return replace(self, **{f"{ORDER_PREFIX}{term.name}": float(w) for term, w in pairs})

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Longest expected remainder first, weighed where an order was learnt."""
        params = self._vector(
            table,
            order=R.ORDER_WEIGHED if self.has_order else R.ORDER_REMAINING,
            call=SWAP if self.write_through else PRESERVE,
            new=SWAP if self.new_swaps else DISCARD,
            resume=R.AUTO,
            grow=R.AUTO,
            swap_ratio=self.swap_ratio,
            guard_pauses=self.guard_pauses,
        )
        params[R.ORDER_WEIGHTS :] = self.order
        return params


class Clairvoyant(House):
    """The house rule with the true remaining pause: what perfect prediction would bring."""

    name = "clairvoyant"
    source = "bound: true remaining pauses"
    sees_future = True

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """As the house rule, by the truth."""
        params = House.params(self, table)
        params[R.ESTIMATE] = BY_TRUTH
        return params
