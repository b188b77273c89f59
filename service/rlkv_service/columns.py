"""Rows of decisions and verdicts as arrays, and their way into messages and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkv_engine.facts import FACTS, NUM_FACTS, POINT
from rlkv_service.schema import (
    MAX_ROWS,
    SCHEMA_VERSION,
    DecisionRequest,
    Reason,
    SchemaError,
    Verb,
    Verdicts,
)

_INDEX = {fact.name: i for i, fact in enumerate(FACTS)}
_UNKNOWN = np.array(np.nan, "<f8").tobytes()
#: Of a verdict: name of the column and its type on the wire.
_VERDICT_COLUMNS: dict[str, np.dtype[Any]] = {
    "verb": np.dtype("<i1"),
    "lease_s": np.dtype("<f4"),
    "soft_priority": np.dtype("<i1"),
    "expected_return_p50_s": np.dtype("<f4"),
    "expected_return_p90_s": np.dtype("<f4"),
    "confidence": np.dtype("<f4"),
    "fallback_used": np.dtype("<i1"),
    "reason": np.dtype("<i1"),
}
_OPTIONAL_COLUMNS = ("rule_verb", "policy_verb")


@dataclass(frozen=True, slots=True, eq=False)
class DecisionRows:
    """Decisions that are asked for together, all of one engine at one moment."""

    sessions: Sequence[str]  # [n]
    turns: NDArray[np.int64]  # [n]
    tools: Sequence[str]  # [n]
    facts: NDArray[np.float64]  # [n, NUM_FACTS], in the order of facts.FACTS

    def __len__(self) -> int:
        return len(self.sessions)


@dataclass(frozen=True, slots=True, eq=False)
class VerdictRows:
    """The answers to ``DecisionRows``, row by row; see ``schema.Verdicts`` for the units."""

    policy_version: str
    verb: NDArray[np.int8]  # [n]
    lease_s: NDArray[np.float32]  # [n]
    soft_priority: NDArray[np.int8]  # [n]
    expected_return_p50_s: NDArray[np.float32]  # [n]
    expected_return_p90_s: NDArray[np.float32]  # [n]
    confidence: NDArray[np.float32]  # [n]
    fallback_used: NDArray[np.int8]  # [n]
    reason: NDArray[np.int8]  # [n]
    rule_verb: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))
    policy_verb: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))

    def __len__(self) -> int:
        return len(self.verb)


def request_of(
    rows: DecisionRows,
    engine_id: str,
    request_id: int,
    *,
    profile_id: str = "",
    reply_to: str = "",
    deadline_s: float | None = None,
) -> DecisionRequest:
    """The message that asks for rows; a fact that all of them share is sent once."""
    # Bytes are compared, not numbers: for so few of them each step of NumPy takes longer than all.
    raw = np.asarray(rows.facts, "<f8").tobytes("F")
    num = len(rows)
    size, start, facts = 8 * num, 0, {}
    for name in _INDEX:
        one, column = raw[start : start + 8], raw[start : start + size]
        start += size
        if column != one * num:
            facts[name] = column
        elif one != _UNKNOWN:
            facts[name] = one
    return DecisionRequest(
        SCHEMA_VERSION,
        request_id,
        engine_id,
        list(rows.sessions),
        np.asarray(rows.turns, "<i4").tobytes(),
        list(rows.tools),
        facts,
        profile_id,
        reply_to,
        deadline_s,
    )


def read_facts(
    numbers: NDArray[np.float64],
    start: NDArray[np.int64],
    stride: NDArray[np.int64],
    num: int,
) -> NDArray[np.float64]:
    """Facts ``[num, NUM_FACTS]``, checked.

    Args:
        numbers: all that there are.
        start: place of the first row's number among them, for each fact.
        stride: distance to that of the next row, for each fact; 0: one number for all.
        num: rows.

    Raises:
        SchemaError: one is out of bounds, or missing without a default.
    """
    facts = numbers[start + np.arange(num)[:, None] * stride]
    check_facts(facts)
    return facts


def rows_of(
    request: DecisionRequest, read: Callable[..., NDArray[np.float64]] = read_facts
) -> DecisionRows:
    """The rows of a message, checked.

    Args:
        request: as decoded.
        read: ``read_facts``, or what does the same faster.

    Raises:
        SchemaError: a column is too long or too short, a fact is missing or impossible.
    """
    num = len(request.sessions)
    if not 1 <= num <= MAX_ROWS:
        raise SchemaError(f"{num} decisions in a request, 1 to {MAX_ROWS} are possible")
    if len(request.tools) != num:
        raise SchemaError(f"{len(request.tools)} tools for {num} decisions")
    turns = _column(request.turns, np.dtype("<i4"), "turns", num)
    columns = request.facts
    if not columns.keys() <= _INDEX.keys():
        columns = {name: raw for name, raw in columns.items() if name in _INDEX}
    start, stride = _layout(tuple(columns), tuple(map(len, columns.values())), num)
    numbers = np.frombuffer(_RAW_DEFAULTS + b"".join(columns.values()), "<f8")
    facts = read(numbers, start, stride, num)
    return DecisionRows(request.sessions, turns.astype(np.int64), request.tools, facts)


@lru_cache(maxsize=256)
def _layout(
    names: tuple[str, ...], sizes: tuple[int, ...], num: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where facts are in a row of numbers: all defaults, then columns of so many bytes.

    An engine asks in the same way every time; to look at each column anew would take longer than
    to decide.

    Returns:
        For each fact the place of its first number, and the distance to that of the next row.
    """
    start, stride = np.arange(NUM_FACTS), np.zeros(NUM_FACTS, np.int64)
    at = NUM_FACTS
    for name, size in zip(names, sizes, strict=True):
        if size not in (8, 8 * num):
            raise _wrong_length(size, name, num, 8 * num)
        start[_INDEX[name]], stride[_INDEX[name]] = at, size > 8
        at += size // 8
    for fact in FACTS:
        if fact.default is None and fact.name not in names:
            raise SchemaError(f"fact {fact.name} is missing")
    return start, stride


def check_facts(facts: NDArray[np.float64]) -> None:
    """Raises ``SchemaError`` where a fact is out of bounds, or missing without a default."""
    impossible = first_impossible(facts)
    if impossible is not None:
        row, i = impossible
        raise SchemaError(f"row {row}: {FACTS[i].name} cannot be {facts[row, i]:g}")


def first_impossible(facts: NDArray[np.float64]) -> tuple[int, int] | None:
    """Row and place of the first fact that cannot be; None: all can."""
    possible = (facts >= LEAST) & (facts <= MOST)
    if possible.all() and not (facts[:, POINT] % 1.0).any():
        return None
    bad = ~possible & ~(np.isnan(facts) & MAY_BE_UNKNOWN)
    bad[:, POINT] |= ~np.isin(facts[:, POINT], (0.0, 1.0, 2.0, 3.0))
    if not bad.any():
        return None
    row, i = (int(where[0]) for where in np.nonzero(bad))
    return row, i


_RAW_DEFAULTS = np.array(
    [np.nan if fact.default is None else fact.default for fact in FACTS], "<f8"
).tobytes()
#: For each fact: whether it may be NaN, and its bounds where it is not.
MAY_BE_UNKNOWN = np.array([f.default is not None and f.default != f.default for f in FACTS])
#: Places of facts of which there is always some.
ABOVE_0 = [
    _INDEX[name]
    for name in ("block_size", "num_device_blocks", "max_num_seqs", "prefill_token_s",
                 "mean_pause_s")
]  # fmt: skip
#: No number of a machine is beyond these, and all that is computed of numbers within is finite.
SMALLEST, LARGEST = 1e-12, 1e12
LEAST, MOST = np.zeros(NUM_FACTS), np.full(NUM_FACTS, LARGEST)
LEAST[ABOVE_0] = SMALLEST
MOST[POINT] = 3.0


def verdicts_of(verdicts: VerdictRows, request_id: int) -> Verdicts:
    """The message that answers a request."""
    columns = {
        name: np.asarray(getattr(verdicts, name)).astype(kind, copy=False).tobytes()
        for name, kind in _VERDICT_COLUMNS.items()
    }
    optional = {name: getattr(verdicts, name).tobytes() for name in _OPTIONAL_COLUMNS}
    return Verdicts(SCHEMA_VERSION, request_id, verdicts.policy_version, **columns, **optional)


def verdict_rows_of(message: Verdicts, num: int) -> VerdictRows:
    """The verdicts of a message that must answer ``num`` rows.

    Raises:
        SchemaError: a column is too long or too short, or holds what cannot be.
    """
    for name, possible in _POSSIBLE.items():
        # What is left without what can be: by far the quickest check of so few values.
        if impossible := getattr(message, name).translate(None, possible):
            value = np.frombuffer(impossible, "<i1")[0]
            raise SchemaError(f"{name} is none of 0 to {len(possible) - 1}: {value}")
    small = (message.verb, message.soft_priority, message.fallback_used, message.reason)
    real = (message.lease_s, message.expected_return_p50_s, message.expected_return_p90_s,
            message.confidence)  # fmt: skip
    if {*map(len, small)} != {num} or {*map(len, real)} != {4 * num}:
        for name, kind in _VERDICT_COLUMNS.items():
            _check_size(getattr(message, name), kind, name, num)
    rule_verb, policy_verb = message.rule_verb, message.policy_verb
    for name, raw in zip(_OPTIONAL_COLUMNS, (rule_verb, policy_verb), strict=True):
        if raw:
            _check_size(raw, _INT8, name, num)
    # Columns of a type are cut from one array: many small ones take their time.
    lease_s, p50_s, p90_s, confidence = np.frombuffer(b"".join(real), "<f4").reshape(4, num)
    verb, priority, by_rule, reason = np.frombuffer(b"".join(small), _INT8).reshape(4, num)
    # Signs and exponents tell most of it, without a pass of NumPy.
    high = message.lease_s[3::4]
    if (b"\x7f" in high or not high.isascii()) and not lease_s.min() >= 0.0:
        raise SchemaError("a lease is negative or not a number")
    return VerdictRows(
        message.policy_version, verb, lease_s, priority, p50_s, p90_s, confidence, by_rule, reason,
        np.frombuffer(rule_verb, _INT8), np.frombuffer(policy_verb, _INT8),
    )  # fmt: skip


_INT8 = np.dtype("<i1")
#: What the bytes of these columns can be.
_POSSIBLE = {
    "verb": bytes(range(len(Verb))),
    "soft_priority": bytes(range(101)),
    "fallback_used": bytes(range(2)),
    "reason": bytes(range(len(Reason))),
}


def _column(raw: bytes, kind: np.dtype[Any], name: str, num: int) -> NDArray[Any]:
    _check_size(raw, kind, name, num)
    return np.frombuffer(raw, kind)


def _check_size(raw: bytes, kind: np.dtype[Any], name: str, num: int) -> None:
    if len(raw) != num * kind.itemsize:
        raise _wrong_length(len(raw), name, num, num * kind.itemsize)


def _wrong_length(size: int, name: str, num: int, num_bytes: int) -> SchemaError:
    return SchemaError(f"{name} has {size} bytes, {num} rows of it have {num_bytes}")
