"""Policies: training, the bundle, every baseline, and what they are compared on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlkv_agents.forked_algorithm import ForkedPPO

__all__ = ["ForkedPPO"]


def __getattr__(name: str) -> Any:
    # On demand: it needs torch and stable-baselines3, which running a policy does not.
    if name == "ForkedPPO":
        from rlkv_agents.forked_algorithm import ForkedPPO

        return ForkedPPO
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
