"""A learned order of victims as a formula that a person can read."""

from __future__ import annotations

from collections.abc import Mapping

from rlkv_agents.house_rule import ORDER_PREFIX

#: Terms that are logarithms (victim_order.ORDER_TERMS): what is raised to the power of its weight.
_POWERS = {
    "turns": "turns",
    "attained": "(time outside tools + 0.01 pauses)",
    "context": "context",
    "firm": "device blocks",
    "elapsed": "(1 + pause so far in mean pauses)",
}


def order_of(constants: Mapping[str, float]) -> dict[str, float]:
    """The weights of an order among the constants of a rule, by term; those that are not 0."""
    return {
        name.removeprefix(ORDER_PREFIX): value
        for name, value in constants.items()
        if name.startswith(ORDER_PREFIX) and value
    }


def order_formula(constants: Mapping[str, float]) -> str:
    """Whose blocks go first: those with the largest of this; empty where no order was learnt."""
    order = order_of(constants)
    if not order:
        return ""
    factors = [_power("expected remainder", 1.0 + order.get("remaining", 0.0))]
    factors += [_power(of, order[name]) for name, of in _POWERS.items() if name in order]
    if "dirty" in order:
        factors.append(f"exp({order['dirty']:.2g} * share not on the host)")
    # The factor is e to the weight.
    if "soon" in order:
        factors.append(f"exp({order['soon']:.2g}) if back within a mean pause")
    if "new_turns" in order:
        factors.append(f"{_power('turns', order['new_turns'])} for a new session")
    return " * ".join(factors)


def _power(of: str, exponent: float) -> str:
    return of if exponent == 1.0 else f"{of}^{exponent:.2g}"
