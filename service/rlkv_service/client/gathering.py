"""One call of ``decide``: its parts, and the verdicts put together again."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkv_service.client.request_book import Settled
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.local_rule import LOCAL_VERSION, LocalRule
from rlkv_service.schema import MAX_ROWS, Reason

_COLUMNS = (
    "verb", "lease_s", "soft_priority", "expected_return_p50_s", "expected_return_p90_s",
    "confidence", "fallback_used", "reason",
)  # fmt: skip
_OPTIONAL = ("rule_verb", "policy_verb")


class Gathering:
    """What comes of rows that travel in as many requests as they need."""

    def __init__(self, rows: DecisionRows, deadline_s: float) -> None:
        self._rows, self._deadline_s = rows, deadline_s
        self._parts = _parts(rows)
        self._ended: dict[int, tuple[VerdictRows | None, Reason]] = {}

    def asks(self) -> list[tuple[DecisionRows, Any, float]]:
        """For ``Exchange.ask``."""
        return [(part, (self, i), self._deadline_s) for i, part in enumerate(self._parts)]

    @staticmethod
    def put(settled: Settled) -> Gathering:
        """Takes the end of a request to the gathering whose part it was."""
        gathering, part = settled.asked.tag
        # Not all of it: its tag leads back to here, and such circles wait for the collector.
        gathering._ended[part] = settled.verdicts, settled.reason
        return gathering  # type: ignore[no-any-return]

    @property
    def is_complete(self) -> bool:
        """Whether all of its requests have ended."""
        return len(self._ended) == len(self._parts)

    def verdicts(self, rule: LocalRule, reason: Reason = Reason.LATE) -> VerdictRows:
        """A verdict for each row: the sidecar's where there is one, else the rule's.

        Args:
            rule: answers what nobody else did.
            reason: why, where the requests were not even sent.
        """
        answers = (verdicts for verdicts, _ in self._ended.values() if verdicts)
        first = next(answers, None)
        version = LOCAL_VERSION if first is None else first.policy_version
        found = []
        for i, part in enumerate(self._parts):
            verdicts, why = self._ended.get(i, (None, reason))
            if verdicts is None:
                found.append(rule.verdicts(part, why))
            elif verdicts.policy_version != version:
                # A new bundle came in between; no answer mixes two.
                found.append(rule.verdicts(part, Reason.MISMATCHED))
            else:
                found.append(verdicts)
        return found[0] if len(found) == 1 else _joined(version, found)


def _parts(rows: DecisionRows) -> list[DecisionRows]:
    if len(rows) <= MAX_ROWS:
        return [rows]
    return [
        DecisionRows(
            rows.sessions[i : i + MAX_ROWS],
            rows.turns[i : i + MAX_ROWS],
            rows.tools[i : i + MAX_ROWS],
            rows.facts[i : i + MAX_ROWS],
        )
        for i in range(0, len(rows), MAX_ROWS)
    ]


def _joined(version: str, parts: list[VerdictRows]) -> VerdictRows:
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    # What only some parts have is left out.
    optional = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _OPTIONAL
        if all(len(getattr(part, name)) for part in parts)
    }
    return VerdictRows(version, **columns, **optional)
