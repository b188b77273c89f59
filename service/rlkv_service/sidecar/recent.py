"""The latest decisions, for a page that shows them: kept as they came, told when asked."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from rlkv_engine import facts as F
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.schema import Point, Reason, Verb

#: Requests that are kept.
KEPT_REQUESTS = 64
#: Engines whose pools are kept.
KEPT_ENGINES = 64


@dataclass(frozen=True, slots=True)
class RecentDecision:
    """One row of a request with its verdict."""

    at_s: float  #: seconds since the epoch
    engine_id: str
    session: str
    turn: int
    tool: str
    point: str  #: name of a ``schema.Point``
    verb: str  #: name of a ``schema.Verb``
    reason: str  #: name of a ``schema.Reason``; POLICY: the policy decided
    rule_verb: str
    policy_verb: str
    confidence: float
    context_tokens: int
    expected_return_p50_s: float
    expected_return_p90_s: float


@dataclass(frozen=True, slots=True)
class EnginePools:
    """The pools of an engine as its last request told them, blocks."""

    at_s: float
    engine_id: str
    num_device_blocks: int
    free_blocks: int
    reclaimable_blocks: int
    pending_blocks: int
    paused_blocks: int  #: held firmly by paused sessions
    num_host_blocks: int
    host_free_blocks: int


class Recent:
    """A ring of the latest requests; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: deque[tuple[float, str, DecisionRows, VerdictRows]] = deque(
            maxlen=KEPT_REQUESTS
        )
        self._pools: dict[str, tuple[float, DecisionRows]] = {}

    def add(self, at_s: float, engine_id: str, rows: DecisionRows, verdicts: VerdictRows) -> None:
        """A request that was answered."""
        with self._lock:
            self._requests.append((at_s, engine_id, rows, verdicts))
            self._pools.pop(engine_id, None)
            self._pools[engine_id] = (at_s, rows)
            if len(self._pools) > KEPT_ENGINES:
                del self._pools[next(iter(self._pools))]  # that which was silent longest

    def rows(self) -> list[DecisionRows]:
        """The rows of the latest requests, oldest first."""
        with self._lock:
            return [rows for _, _, rows, _ in self._requests]

    def decisions(self, limit: int = 50) -> list[RecentDecision]:
        """The latest decisions, newest first."""
        with self._lock:
            requests = list(self._requests)
        found: list[RecentDecision] = []
        for at_s, engine_id, rows, verdicts in reversed(requests):
            for row in reversed(range(len(rows))):
                if len(found) == limit:
                    return found
                found.append(_decision(at_s, engine_id, rows, verdicts, row))
        return found

    def pools(self) -> list[EnginePools]:
        """The pools of the engines that asked lately, those that asked last at the end."""
        with self._lock:
            latest = list(self._pools.items())
        return [_pools(at_s, engine_id, rows) for engine_id, (at_s, rows) in latest]


def _decision(
    at_s: float, engine_id: str, rows: DecisionRows, verdicts: VerdictRows, row: int
) -> RecentDecision:
    return RecentDecision(
        at_s,
        engine_id,
        rows.sessions[row],
        int(rows.turns[row]),
        rows.tools[row],
        Point(int(rows.facts[row, F.POINT])).name,
        Verb(verdicts.verb[row]).name,
        Reason(verdicts.reason[row]).name,
        Verb(verdicts.rule_verb[row]).name,
        Verb(verdicts.policy_verb[row]).name,
        float(verdicts.confidence[row]),
        int(rows.facts[row, F.CONTEXT_TOKENS]),
        float(verdicts.expected_return_p50_s[row]),
        float(verdicts.expected_return_p90_s[row]),
    )


def _pools(at_s: float, engine_id: str, rows: DecisionRows) -> EnginePools:
    last = rows.facts[-1]
    return EnginePools(
        at_s,
        engine_id,
        *(
            int(last[fact])
            for fact in (
                F.NUM_DEVICE_BLOCKS,
                F.FREE_BLOCKS,
                F.RECLAIMABLE_BLOCKS,
                F.PENDING_BLOCKS,
                F.PAUSED_BLOCKS,
                F.NUM_HOST_BLOCKS,
                F.HOST_FREE_BLOCKS,
            )
        ),
    )
