"""Decisions and outcomes as Arrow columns: what the files of an export hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rlkv_engine.facts import FACTS
from rlkv_engine.facts import POINT as POINT_FACT
from rlkv_service.decision_log.log_reader import DecisionEntry, OutcomeEntry
from rlkv_service.schema import Outcome, Point, Reason, SessionEnd, Verb

_NAME = pa.dictionary(pa.int32(), pa.string())
_TIME = pa.timestamp("us", tz="UTC")
#: Columns of facts begin with this: an engine's own rule is a fact too, and so is a verdict's.
FACT_PREFIX = "fact_"

#: A row a decision. Of an unknown fact the column is null.
DECISION_SCHEMA = pa.schema(
    [
        ("entry_id", _NAME),  # of the request, in the stream
        ("row", pa.int16()),  # of the decision, in the request
        ("at", _TIME),
        ("engine_id", _NAME),
        ("profile_id", _NAME),
        ("session", _NAME),
        ("turn", pa.int32()),
        ("tool", _NAME),
        ("point", _NAME),
        ("verb", _NAME),
        ("lease_s", pa.float32()),
        ("soft_priority", pa.int8()),
        ("expected_return_p50_s", pa.float32()),
        ("expected_return_p90_s", pa.float32()),
        ("confidence", pa.float32()),
        ("policy_version", _NAME),
        ("fallback_used", pa.bool_()),
        ("reason", _NAME),
        ("rule_verb", _NAME),  # null where the answer does not say
        ("policy_verb", _NAME),
        *((FACT_PREFIX + fact.name, pa.float64()) for fact in FACTS),
    ]
)
#: A row an outcome or an end. What an end does not have is null.
OUTCOME_SCHEMA = pa.schema(
    [
        ("entry_id", pa.string()),
        ("at", _TIME),  # when the server got it
        ("kind", _NAME),  # outcome, end
        ("engine_id", _NAME),
        ("session", _NAME),
        ("turn", pa.int32()),
        ("tool", _NAME),
        ("pause_s", pa.float64()),
        ("context_tokens", pa.int64()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("new_tokens", pa.int64()),
        ("reused_device_tokens", pa.int64()),
        ("reused_host_tokens", pa.int64()),
        ("recomputed_tokens", pa.int64()),
        ("delay_s", pa.float64()),
        ("verb", _NAME),  # null where nobody asked
        ("policy_version", _NAME),
        ("started_s", pa.float64()),
        ("ended_s", pa.float64()),
    ]
)
_VERBS = [verb.name for verb in Verb]
_REASONS = [reason.name for reason in Reason]
_POINTS = [point.name for point in Point]
#: Numbers in messages are not limited, those of columns are.
_MOST = 2**63 - 1


def decision_batch(entries: Sequence[DecisionEntry]) -> pa.RecordBatch:
    """The rows of some requests."""
    num = [len(entry.rows) for entry in entries]
    columns: dict[str, Any] = {
        "entry_id": _names(_repeated([entry.entry_id for entry in entries], num)),
        "row": pa.array(np.concatenate([np.arange(each) for each in num]), pa.int16()),
        "at": _times(_repeated([entry.at_s for entry in entries], num)),
        "engine_id": _names(_repeated([entry.request.engine_id for entry in entries], num)),
        "profile_id": _names(_repeated([entry.request.profile_id for entry in entries], num)),
        "session": _names([name for entry in entries for name in entry.rows.sessions]),
        "turn": pa.array(np.concatenate([entry.rows.turns for entry in entries]), pa.int32()),
        "tool": _names([name for entry in entries for name in entry.rows.tools]),
        "policy_version": _names(_repeated([e.verdicts.policy_version for e in entries], num)),
        "verb": _named(_joined(entries, "verb", num), _VERBS),
        "reason": _named(_joined(entries, "reason", num), _REASONS),
        "rule_verb": _named(_joined(entries, "rule_verb", num), _VERBS),
        "policy_verb": _named(_joined(entries, "policy_verb", num), _VERBS),
        "fallback_used": pa.array(_joined(entries, "fallback_used", num) != 0),
    }
    facts = np.concatenate([entry.rows.facts for entry in entries])
    columns["point"] = _named(facts[:, POINT_FACT].astype(np.int8), _POINTS)
    for i, fact in enumerate(FACTS):
        columns[FACT_PREFIX + fact.name] = pa.array(
            np.ascontiguousarray(facts[:, i]), from_pandas=True
        )
    for name in DECISION_SCHEMA.names:
        if name not in columns:
            columns[name] = pa.array(_joined(entries, name, num), DECISION_SCHEMA.field(name).type)
    return pa.record_batch([columns[name] for name in DECISION_SCHEMA.names], DECISION_SCHEMA)


def outcome_batch(entries: Sequence[OutcomeEntry]) -> pa.RecordBatch:
    """A row for each outcome and end."""
    columns: dict[str, Any] = {
        "entry_id": pa.array([entry.entry_id for entry in entries], pa.string()),
        "at": _times([entry.at_s for entry in entries]),
        "kind": _names([_kind(entry.message) for entry in entries]),
        "verb": _named(
            np.array([_verb(entry.message) for entry in entries], np.int8), _VERBS
        ),
    }  # fmt: skip
    for field in OUTCOME_SCHEMA:
        if field.name not in columns:
            values = [_value(entry.message, field.name) for entry in entries]
            is_name = pa.types.is_dictionary(field.type)
            columns[field.name] = _names(values) if is_name else pa.array(values, field.type)
    return pa.record_batch([columns[name] for name in OUTCOME_SCHEMA.names], OUTCOME_SCHEMA)


def _value(message: Outcome | SessionEnd, name: str) -> Any:
    value = getattr(message, name, None)
    return max(-_MOST, min(value, _MOST)) if isinstance(value, int) else value


def _kind(message: Outcome | SessionEnd) -> str:
    return "outcome" if isinstance(message, Outcome) else "end"


def _verb(message: Outcome | SessionEnd) -> int:
    verb = message.verb if isinstance(message, Outcome) else -1
    return verb if verb in range(len(Verb)) else -1


def _joined(entries: Sequence[DecisionEntry], name: str, num: list[int]) -> Any:
    # A column of the verdicts; -1 where an answer does not have it.
    columns = []
    for entry, each in zip(entries, num, strict=True):
        column = getattr(entry.verdicts, name)
        columns.append(column if len(column) == each else np.full(each, -1, np.int8))
    return np.concatenate(columns)


def _repeated(values: list[Any], num: list[int]) -> list[Any]:
    return [value for value, each in zip(values, num, strict=True) for _ in range(each)]


def _names(values: list[str | None]) -> Any:
    return pa.array(values, pa.string()).dictionary_encode().cast(_NAME)


def _named(index: Any, names: list[str]) -> Any:
    known = (index >= 0) & (index < len(names))
    return pa.DictionaryArray.from_arrays(
        pa.array(index.astype(np.int32), mask=~known), pa.array(names, pa.string())
    )


def _times(at_s: list[float]) -> Any:
    micros = np.clip(np.nan_to_num(np.array(at_s, np.float64)), -1e12, 1e12) * 1e6
    return pa.array(np.round(micros).astype(np.int64), pa.int64()).cast(_TIME)
