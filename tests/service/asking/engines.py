"""Engines on small scenarios, and askers that do not answer as they should."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkv_agents.policy import AgentPolicy
from rlkv_engine.stepped import SteppedEngine
from rlkv_envs.scenario import Scenario
from rlkv_service.asking.stepping import stepped_engine
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.local_rule import LocalRule
from rlkv_service.schema import Reason


def small_engine(scenario: Scenario, policy: AgentPolicy, seed: int = 0) -> SteppedEngine:
    return stepped_engine(scenario, policy, scenario.trace(seed, "test"))


class Silent:
    """Is asked and never answers."""

    def __init__(self) -> None:
        self.num_asked = 0

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        self.num_asked += len(rows)
        return True

    def collect(self) -> list[tuple[Any, VerdictRows]]:
        return []


class Refusing(Silent):
    """Takes nothing."""

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        super().ask(rows, tag)
        return False


class Erratic:
    """Answers anything, after anything from one iteration to many, or never, and not in order."""

    def __init__(self, seed: int, longest: int = 40) -> None:
        self._random = np.random.default_rng(seed)
        self._longest = longest
        self._iteration = 0
        self._under_way: list[tuple[int, Any, VerdictRows]] = []

    def ask(self, rows: DecisionRows, tag: Any) -> bool:
        kind = self._random.integers(6)
        if kind == 0:
            return False
        if kind > 1:
            due = self._iteration + int(self._random.integers(1, self._longest))
            self._under_way.append((due, tag, self._verdicts(rows)))
        return True

    def collect(self) -> list[tuple[Any, VerdictRows]]:
        self._iteration += 1
        due = [each for each in self._under_way if each[0] <= self._iteration]
        self._under_way = [each for each in self._under_way if each[0] > self._iteration]
        return [(tag, verdicts) for _, tag, verdicts in due]

    def _verdicts(self, rows: DecisionRows) -> VerdictRows:
        verdicts = LocalRule().verdicts(rows, Reason.POLICY)
        num = len(rows)
        verdicts.verb[:] = self._random.integers(3, size=num)
        verdicts.reason[:] = self._random.integers(len(Reason), size=num)
        verdicts.lease_s[:] = self._random.choice([0.0, 0.1, 3.0, np.inf], size=num)
        return verdicts
