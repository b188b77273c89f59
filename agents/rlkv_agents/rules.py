"""Every rule that a learned policy is compared with, all on the one scheduler.

A rule is a few numbers for the compiled loop (``rlkv_engine.rule``). Each class says what it
rebuilds and from where; the fields are the constants a deployment would tune, and ``grid`` the
values that ``rlkv tune`` tries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rlkv_agents.base_rule import Rule
from rlkv_agents.house_rule import ORDER_PREFIX, Clairvoyant, House
from rlkv_engine import rule as R
from rlkv_engine.errors import InputError
from rlkv_engine.estimates import BY_ELAPSED, BY_TOOL, BY_TRUTH, PauseTable
from rlkv_engine.profile import Profile
from rlkv_engine.state import DISCARD, PRESERVE, SWAP, SWAP_NOW


class AlwaysPreserve(Rule):
    """Nothing is ever taken from a paused session for a new one; returns and growth must take."""

    name = "preserve"
    source = "InferCept policy P (arXiv 2402.01869)"

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """New sessions wait; a session that must go on discards the last used."""
        return self._vector(
            table,
            order=R.ORDER_ELAPSED,
            new=PRESERVE,
            resume=DISCARD,
            grow=DISCARD,
        )


class AlwaysSwap(Rule):
    """Every context is copied out and freed as soon as its session pauses."""

    name = "swap"
    source = "InferCept policy S (arXiv 2402.01869)"

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Copy out at the call; what is in the way later is copied out too."""
        return self._vector(
            table,
            order=R.ORDER_ELAPSED,
            call=SWAP_NOW,
            new=SWAP,
            resume=SWAP,
            grow=SWAP,
        )


class AlwaysDiscard(Rule):
    """Every context is given up as soon as its session pauses."""

    name = "discard"
    source = "vLLM without prefix cache; InferCept policy D (arXiv 2402.01869)"

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Discard at the call."""
        return self._vector(table, order=R.ORDER_ELAPSED, call=DISCARD)


class Lru(Rule):
    """A plain prefix cache: keep all, overwrite the least recently used."""

    name = "lru"
    source = "vLLM v1 prefix cache (vllm/v1/core/block_pool.py: free queue in LRU order)"

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Least recently used first, discard."""
        return self._vector(table, order=R.ORDER_ELAPSED)


class LruSwap(Rule):
    """Keep all; the least recently used is copied out when memory is short."""

    name = "lru-swap"
    source = "LMCache lazy offload (PR #4847), least recently used order"

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Least recently used first, swap."""
        return self._vector(
            table,
            order=R.ORDER_ELAPSED,
            new=SWAP,
            resume=SWAP,
            grow=SWAP,
        )


class Lazy(Rule):
    """Keep all; discard the longest expected remaining pause first."""

    name = "lazy"
    source = (
        "expected remaining pause by tool as eviction order (KVFlow, arXiv 2507.07400, by time)"
    )


@dataclass(frozen=True, slots=True)
class LazySwap(Rule):
    """Keep all; copy out the longest expected remaining pause first, with an admission guard."""

    name: ClassVar[str] = "lazy-swap"
    source: ClassVar[str] = "as lazy, victims copied out"
    grid: ClassVar[Mapping[str, Sequence[float]]] = {
        **Rule.grid,
        "guard_pauses": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
    }
    guard_pauses: float = 0.0

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Longest expected remainder first, swap, guarded."""
        return self._vector(
            table,
            order=R.ORDER_REMAINING,
            new=SWAP,
            resume=SWAP,
            grow=SWAP,
            guard_pauses=self.guard_pauses,
        )


class TwoTierLru(Rule):
    """Write through to the host at every call; least recently used leaves the device first."""

    name = "two-tier-lru"
    source = "SGLang HiCache, --hicache-write-policy write_through"

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Write through, least recently used first, swap."""
        return self._vector(
            table,
            order=R.ORDER_ELAPSED,
            call=SWAP,
            new=SWAP,
            resume=SWAP,
            grow=SWAP,
        )


@dataclass(frozen=True, slots=True)
class MinWaste(Rule):
    """InferCept: every iteration, the verb that wastes least memory x time, per session."""

    name: ClassVar[str] = "min-waste"
    source: ClassVar[str] = "InferCept (arXiv 2402.01869), estimates by tool"
    estimate: ClassVar[int] = BY_TOOL

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Eager review; whatever must go later goes by the same estimate."""
        return self._vector(
            table,
            order=R.ORDER_REMAINING,
            estimate=self.estimate,
            new=SWAP,
            resume=SWAP,
            grow=SWAP,
            eager=True,
        )


class MinWasteElapsed(MinWaste):
    """Min-waste with the paper's estimate: a pause lasts as long again as it has lasted."""

    name = "min-waste-elapsed"
    source = "InferCept (arXiv 2402.01869) section 4.4"
    estimate = BY_ELAPSED


class MinWasteTrue(MinWaste):
    """Min-waste with the true remaining pause, as the released code has it."""

    name = "min-waste-true"
    source = "WukLab/InferCept vllm/sequence.py api_remaining_time"
    estimate = BY_TRUTH
    sees_future = True


@dataclass(frozen=True, slots=True)
class Ttl(Rule):
    """Preserve until a deadline by tool, then give up; the deadline weighs reuse against memory.

    For each tool the lease maximises ``P(pause <= lease) - memory_price * E[min(pause, lease)] /
    mean pause``: the chance to be of use less the memory held meanwhile.
    """

    name: ClassVar[str] = "ttl"
    source: ClassVar[str] = "Continuum (arXiv 2511.02230): TTL from the tool's pause distribution"
    grid: ClassVar[Mapping[str, Sequence[float]]] = {
        **Rule.grid,
        "memory_price": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    }
    memory_price: float = 0.2

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Leases at the call; a live lease is only broken for a session that must go on."""
        return self._vector(
            table,
            order=R.ORDER_ELAPSED,
            call=R.CALL_LEASE,
            new=PRESERVE,
        )

    def leases(self, profile: Profile, table: PauseTable) -> NDArray[np.float64]:
        """The best lease of every row of the table, seconds."""
        best = []
        for quantiles in table.quantiles_s:
            candidates = np.concatenate([[0.0], quantiles])
            reached = (quantiles[None, :] <= candidates[:, None]).mean(axis=1)
            held = np.minimum(quantiles[None, :], candidates[:, None]).mean(axis=1)
            value = reached - self.memory_price * held / table.mean_pause_s
            best.append(candidates[np.argmax(value)])
        return np.array(best)


class Mori(Rule):
    """The share of its life that a session has spent waiting for tools ranks it; idlest out."""

    name = "mori"
    source = "MORI (arXiv 2606.00866): idleness rank, busiest on the device, idlest on the host"

    def params(self, table: PauseTable) -> NDArray[np.float64]:
        """Idlest first, swap, write-through."""
        return self._vector(
            table,
            order=R.ORDER_IDLENESS,
            call=SWAP,
            new=SWAP,
            resume=SWAP,
            grow=SWAP,
        )


RULES: dict[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        AlwaysPreserve,
        AlwaysSwap,
        AlwaysDiscard,
        Lru,
        LruSwap,
        Lazy,
        LazySwap,
        TwoTierLru,
        MinWaste,
        MinWasteElapsed,
        MinWasteTrue,
        Ttl,
        Mori,
        House,
        Clairvoyant,
    )
}


def constants_of(rule: Rule) -> dict[str, float]:
    """The constants of a rule, its order's weights only where an order was learnt."""
    named = {each.name: float(getattr(rule, each.name)) for each in fields(rule)}
    return {
        name: value
        for name, value in named.items()
        if value != 0.0 or not name.startswith(ORDER_PREFIX)
    }


def make_rule(name: str, constants: Mapping[str, float] | None = None) -> Rule:
    """A rule by name with its constants.

    Raises:
        InputError: unknown name or constant.
    """
    if name not in RULES:
        raise InputError(f"unknown rule {name!r}: one of {', '.join(RULES)}")
    rule = RULES[name]
    known = [field.name for field in fields(rule)]
    for constant in constants or {}:
        if constant not in known:
            has = ", ".join(known) or "none"
            raise InputError(f"rule {name!r} has no constant {constant!r} (it has: {has})")
    return rule(**(constants or {}))
