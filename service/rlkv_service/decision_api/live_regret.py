"""What became of pauses about which the policy and the rule did not agree, beside the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rlkv_service.decision_api.live_snapshot import LiveRegret
from rlkv_service.schema import Outcome
from rlkv_service.sidecar.recent import RecentDecision

#: Decisions that wait for their outcome, and outcomes that have met theirs.
_KEPT_DECISIONS = 20_000
_KEPT_OUTCOMES = 5_000


class RegretBook:
    """Joins decisions with the outcomes that come later."""

    def __init__(self) -> None:
        self._verbs: dict[tuple[str, str, int], tuple[str, str]] = {}  # the rule's, the policy's
        self._delays: deque[tuple[tuple[str, str], float]] = deque(maxlen=_KEPT_OUTCOMES)

    def decided(self, decisions: Iterable[RecentDecision]) -> None:
        """Decisions, oldest first. Where the two differed once about a pause, that is kept."""
        for each in decisions:
            key = (each.engine_id, each.session, each.turn)
            known = self._verbs.pop(key, None)
            verbs = (each.rule_verb, each.policy_verb)
            differed = known is not None and known[0] != known[1]
            self._verbs[key] = known if known is not None and differed else verbs
            if len(self._verbs) > _KEPT_DECISIONS:
                del self._verbs[next(iter(self._verbs))]

    def came_out(self, outcome: Outcome) -> None:
        """What came of a pause."""
        verbs = self._verbs.pop((outcome.engine_id, outcome.session, outcome.turn), None)
        if verbs is not None:
            self._delays.append((verbs, outcome.delay_s))

    def rows(self) -> list[LiveRegret]:
        """By what the two said, the most frequent first."""
        sums: dict[tuple[str, str], list[float]] = {}
        for verbs, delay_s in self._delays:
            sums.setdefault(verbs, []).append(delay_s)
        return [
            LiveRegret(*verbs, len(delays), sum(delays) / len(delays))
            for verbs, delays in sorted(sums.items(), key=lambda each: -len(each[1]))
        ]
