"""Figures of a log: who decided what and why, and what came of it. In one pass, bounded."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.facts import ELAPSED_S
from rlkv_engine.histogram import ROW, Histogram, add_duration
from rlkv_service.decision_log.entries import id_parts
from rlkv_service.decision_log.log_reader import DecisionEntry, LogReader, OutcomeEntry
from rlkv_service.schema import Outcome, Reason, SessionEnd, Verb

#: Tools with figures of their own; those that come later are ``OTHER_TOOLS``.
MAX_TOOLS = 200
OTHER_TOOLS = "(others)"
#: Predictions that wait for their outcome; beyond it the oldest ones are not judged.
MAX_OPEN = 200_000
_CONFIDENCE_BINS = 1000
_MAX_NAMES = 1000


class _ToolFigures:
    """Pauses on a tool, seen and predicted."""

    def __init__(self) -> None:
        self.seen_s, self.p50_s, self.p90_s = np.zeros((3, ROW))
        self.num_judged = self.num_within_p50 = self.num_within_p90 = 0

    def judge(self, pause_s: float, p50_s: float, p90_s: float) -> None:
        self.num_judged += 1
        self.num_within_p50 += pause_s <= p50_s
        self.num_within_p90 += pause_s <= p90_s
        add_duration(self.p50_s, p50_s)
        add_duration(self.p90_s, p90_s)

    def as_json(self, tool: str) -> dict[str, Any]:
        seen, num = Histogram(self.seen_s), self.num_judged
        p50_s, p90_s = seen.quantiles_s([0.5, 0.9])
        return {
            "tool": tool,
            "num_outcomes": seen.count,
            "pause_p50_s": _known(p50_s),
            "pause_p90_s": _known(p90_s),
            "num_predicted": num,
            "predicted_p50_s": _known(Histogram(self.p50_s).quantiles_s([0.5])[0]),
            "predicted_p90_s": _known(Histogram(self.p90_s).quantiles_s([0.5])[0]),
            "coverage_p50_ratio": self.num_within_p50 / num if num else None,
            "coverage_p90_ratio": self.num_within_p90 / num if num else None,
        }


class _ReuseFigures:
    """What was found again of contexts."""

    def __init__(self) -> None:
        self.num = self.reused_tokens = self.recomputed_tokens = 0
        self.delay_s = 0.0

    def add(self, outcome: Outcome) -> None:
        self.num += 1
        self.reused_tokens += outcome.reused_device_tokens + outcome.reused_host_tokens
        self.recomputed_tokens += outcome.recomputed_tokens
        self.delay_s += outcome.delay_s

    def as_json(self, verb: str) -> dict[str, Any]:
        total = self.reused_tokens + self.recomputed_tokens
        return {
            "verb": verb,
            "num_outcomes": self.num,
            "reuse_ratio": self.reused_tokens / total if total else None,
            "mean_delay_s": _known(self.delay_s / self.num) if self.num else None,
        }


class LogStatistics:
    """Adds entries up; a prediction is the first one of its turn."""

    def __init__(self) -> None:
        self._num_requests = self._num_ends = 0
        self._decisions: Counter[tuple[int, bool, int]] = Counter()  # verb, by rule, reason
        self._num_departed = self._num_policy_said = self._num_policy_differs = 0
        self._confidence: NDArray[np.int64] = np.zeros(_CONFIDENCE_BINS + 1, np.int64)
        self._engines: set[str] = set()
        self._versions: Counter[str] = Counter()
        self._tools: dict[str, _ToolFigures] = {}
        self._reuse: dict[str, _ReuseFigures] = {}
        self._open: dict[tuple[str, str, int], tuple[float, float]] = {}
        self._span_s = (math.inf, -math.inf)

    def add_decision(self, entry: DecisionEntry) -> None:
        """Counts a request with its verdicts."""
        rows, verdicts = entry.rows, entry.verdicts
        self._num_requests += 1
        self._note(entry.request.engine_id, entry.at_s)
        if verdicts.policy_version in self._versions or len(self._versions) < _MAX_NAMES:
            self._versions[verdicts.policy_version] += len(rows)
        by_rule = verdicts.fallback_used != 0
        keys = zip(verdicts.verb.tolist(), by_rule.tolist(), verdicts.reason.tolist(), strict=True)
        self._decisions.update(keys)
        if len(verdicts.rule_verb):
            self._num_departed += int((~by_rule & (verdicts.verb != verdicts.rule_verb)).sum())
            if len(verdicts.policy_verb):
                said = verdicts.policy_verb >= 0
                self._num_policy_said += int(said.sum())
                differs = said & (verdicts.policy_verb != verdicts.rule_verb)
                self._num_policy_differs += int(differs.sum())
        share = np.clip(np.nan_to_num(verdicts.confidence), 0.0, 1.0)
        np.add.at(self._confidence, (share * _CONFIDENCE_BINS).astype(np.int64), 1)
        elapsed_s = rows.facts[:, ELAPSED_S]
        p50_s = (elapsed_s + verdicts.expected_return_p50_s).tolist()
        p90_s = (elapsed_s + verdicts.expected_return_p90_s).tolist()
        for row, (session, turn) in enumerate(zip(rows.sessions, rows.turns.tolist(), strict=True)):
            if p50_s[row] >= 0.0 and p90_s[row] >= 0.0:  # NaN is no prediction
                key = (entry.request.engine_id, session, turn)
                self._open.setdefault(key, (p50_s[row], p90_s[row]))
        while len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]

    def add_outcome(self, entry: OutcomeEntry) -> None:
        """Counts an outcome, against what was predicted, or an end."""
        message = entry.message
        self._note(message.engine_id, entry.at_s)
        if isinstance(message, SessionEnd):
            self._num_ends += 1
            return
        said = self._open.pop((message.engine_id, message.session, message.turn), None)
        verb = Verb(message.verb).name if message.verb in range(len(Verb)) else "-"
        self._reuse.setdefault(verb, _ReuseFigures()).add(message)
        tool = message.tool
        if tool not in self._tools and len(self._tools) >= MAX_TOOLS:
            tool = OTHER_TOOLS
        figures = self._tools.setdefault(tool, _ToolFigures())
        if 0.0 <= message.pause_s < math.inf:
            add_duration(figures.seen_s, message.pause_s)
            if said is not None:
                figures.judge(message.pause_s, *said)

    def as_json(self) -> dict[str, Any]:
        """The figures; ratios are None where there is nothing to divide by."""
        by_policy = sum(n for (_, by_rule, _), n in self._decisions.items() if not by_rule)
        tools = [figures.as_json(tool) for tool, figures in self._tools.items()]
        every = _ReuseFigures()
        for each in self._reuse.values():
            every.num += each.num
            every.reused_tokens += each.reused_tokens
            every.recomputed_tokens += each.recomputed_tokens
            every.delay_s += each.delay_s
        return {
            "since_s": _known(self._span_s[0]),
            "until_s": _known(self._span_s[1]),
            "engines": sorted(self._engines),
            "policy_versions": dict(self._versions.most_common()),
            "num_requests": self._num_requests,
            "num_decisions": self._decisions.total(),
            "decisions": [
                {
                    "verb": Verb(verb).name,
                    "decided_by": "rule" if by_rule else "policy",
                    "reason": Reason(reason).name,
                    "num": num,
                }
                for (verb, by_rule, reason), num in self._decisions.most_common()
            ],
            "departure_ratio": self._num_departed / by_policy if by_policy else None,
            "policy_differs_ratio": (
                self._num_policy_differs / self._num_policy_said if self._num_policy_said else None
            ),
            "confidence": self._confidence_figures(),
            "num_outcomes": every.num,
            "num_ends": self._num_ends,
            "tools": sorted(tools, key=lambda each: -each["num_outcomes"]),
            "reuse": [every.as_json("all")]
            + [self._reuse[verb].as_json(verb) for verb in sorted(self._reuse)],
        }

    def _note(self, engine_id: str, at_s: float) -> None:
        if len(self._engines) < _MAX_NAMES:
            self._engines.add(engine_id)
        self._span_s = (min(self._span_s[0], at_s), max(self._span_s[1], at_s))

    def _confidence_figures(self) -> dict[str, float | None]:
        total = int(self._confidence.sum())
        if not total:
            return {"mean": None, "p10": None, "p50": None, "p90": None}
        share = np.arange(_CONFIDENCE_BINS + 1) / _CONFIDENCE_BINS
        up_to = np.cumsum(self._confidence)
        at = {f"p{q}": float(share[np.searchsorted(up_to, q * total / 100)]) for q in (10, 50, 90)}
        return {"mean": float(share @ self._confidence / total), **at}


def log_statistics(reader: LogReader) -> dict[str, Any]:
    """The figures of a log, read once, both streams in the order of their times.

    Raises:
        RedisError: the server is gone, or refuses.
    """
    statistics = LogStatistics()
    streams: list[Iterator[DecisionEntry | OutcomeEntry]] = [reader.decisions(), reader.outcomes()]
    entries = heapq.merge(*streams, key=lambda entry: id_parts(entry.entry_id))
    for entry in entries:
        if isinstance(entry, DecisionEntry):
            statistics.add_decision(entry)
        else:
            statistics.add_outcome(entry)
    return statistics.as_json() | {"num_unreadable": reader.num_unreadable}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
