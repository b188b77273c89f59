"""Who plans the memory of an iteration: a policy inside the loop, or something that asks others."""

from __future__ import annotations

from typing import Protocol

from rlkv_engine.loop import Policy
from rlkv_engine.stepped import SteppedEngine


class MemoryPlanner(Protocol):
    """Answers the decisions of an iteration that is about to start."""

    def plan_memory(self, engine: SteppedEngine) -> None:
        """Events, growth and admissions, as ``SteppedEngine.plan_memory`` does."""


class PolicyPlanner:
    """A policy inside the compiled loop answers."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def plan_memory(self, engine: SteppedEngine) -> None:
        """Without leaving the loop."""
        engine.plan_memory(self._policy)
