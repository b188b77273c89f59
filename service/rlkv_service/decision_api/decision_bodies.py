"""Decisions as JSON: what is asked, as rows with the names of ``facts.FACTS``, and the verdicts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from rlkv_engine.facts import FACTS, NUM_FACTS, POINT
from rlkv_service.columns import DecisionRows, VerdictRows, first_impossible
from rlkv_service.decision_api.fact_fields import MACHINE, MEMORY, QUESTION, fields_of
from rlkv_service.decision_api.hint_bodies import (
    HintsAsked,
    HintsTold,
    check_hints,
    hints_of,
)
from rlkv_service.decision_api.json_bodies import Turn, Version, decode_json
from rlkv_service.decision_api.problems import Problem
from rlkv_service.schema import LOCAL_REASONS, MAX_ROWS, SCHEMA_VERSION, Name, Point, Reason, Verb

_POINTS = {point.name: float(point) for point in Point}
_VERBS = [verb.name for verb in Verb]
#: Of a server, by their numbers; the others are a client's own.
REASON_NAMES = [reason.name for reason in Reason if reason not in LOCAL_REASONS]

Machine = msgspec.defstruct(
    "Machine",
    fields_of(MACHINE),
    kw_only=True,
    namespace={"__doc__": "The machine and its model: the same in every decision of an engine."},
)
Memory = msgspec.defstruct(
    "Memory",
    fields_of(MEMORY),
    kw_only=True,
    namespace={"__doc__": "Pools and sessions at the moment of the question."},
)
#: Of ``Row``: the fields before its facts.
_WHO = ("session", "turn", "tool", "point")
Row = msgspec.defstruct(
    "Row",
    [
        ("session", Name),
        ("turn", Turn),
        ("tool", Name),
        (
            "point",
            Annotated[
                Literal["CALL", "NEW", "RESUME", "GROW"],
                Meta(description="A pause begins, or memory is short for somebody."),
            ],
        ),
        *fields_of(QUESTION),
    ],
    kw_only=True,
    namespace={"__doc__": "One paused session, and what is needed of it."},
)


class DecisionsBody(msgspec.Struct):
    """Decisions of one engine at one moment."""

    engine_id: Name
    machine: Machine  # type: ignore[valid-type]
    memory: Memory  # type: ignore[valid-type]
    rows: Annotated[list[Row], Meta(min_length=1, max_length=MAX_ROWS)]  # type: ignore[valid-type]
    v: Version = SCHEMA_VERSION
    profile_id: Name = ""
    hints: HintsAsked | None = None


class VerdictRow(msgspec.Struct):
    """What becomes of the KV of one paused session."""

    session: str
    turn: int
    verb: Literal["PRESERVE", "SWAP", "DISCARD"]
    lease_s: Annotated[
        float | None,
        Meta(description="For how long PRESERVE is promised; null: without an end."),
    ]
    soft_priority: Annotated[int, Meta(ge=0, le=100, description="0: take this one first.")]
    expected_return_p50_s: Annotated[float | None, Meta(description="From now; null: unknown.")]
    expected_return_p90_s: float | None
    confidence: Annotated[
        float | None, Meta(description="Chance that the verb is no worse than the rule's.")
    ]
    fallback_used: Annotated[bool, Meta(description="Whether a rule answered.")]
    reason: Annotated[
        Literal["POLICY", "UNSURE", "OUTSIDE", "NO_POLICY", "SHADOW"],
        Meta(description="Who decided, and why."),
    ]
    rule_verb: Literal["PRESERVE", "SWAP", "DISCARD"] | None
    policy_verb: Literal["PRESERVE", "SWAP", "DISCARD"] | None
    #: Only there where they are asked for.
    hints: HintsTold | msgspec.UnsetType = msgspec.UNSET


class VerdictsBody(msgspec.Struct):
    """The verdicts, in the order of the rows."""

    policy_version: Annotated[str, Meta(description="Of the bundle, one for all rows.")]
    verdicts: list[VerdictRow]
    v: Version = SCHEMA_VERSION


_decoder = msgspec.json.Decoder(DecisionsBody)
_encoder = msgspec.json.Encoder()


def read_decisions(body: bytes) -> tuple[str, DecisionRows, HintsAsked | None]:
    """The engine, its rows, and in whose words the verdicts are asked for.

    Raises:
        Problem: the body cannot be read, or says what cannot be; it names the field.
    """
    asked = decode_json(_decoder, body)
    check_hints(asked.hints, len(asked.rows))
    rows: list[Any] = asked.rows
    told = [msgspec.structs.astuple(row) for row in rows]
    facts = np.empty((len(rows), NUM_FACTS))
    # What is null becomes NaN: not known.
    facts[:, MACHINE] = np.array(msgspec.structs.astuple(asked.machine), float)
    facts[:, MEMORY] = np.array(msgspec.structs.astuple(asked.memory), float)
    facts[:, POINT] = [_POINTS[row.point] for row in rows]
    facts[:, QUESTION] = np.array([each[len(_WHO) :] for each in told], float)
    impossible = first_impossible(facts)
    if impossible is not None:
        raise _impossible(facts, *impossible)
    turns = np.array([row.turn for row in rows], np.int64)
    named = [row.session for row in rows]
    return (
        asked.engine_id,
        DecisionRows(named, turns, [row.tool for row in rows], facts),
        asked.hints,
    )


def write_verdicts(
    rows: DecisionRows, verdicts: VerdictRows, asked: HintsAsked | None = None
) -> bytes:
    """The JSON that answers, in the words that are asked for as well."""
    num = len(rows)
    columns = (
        rows.sessions,
        rows.turns.tolist(),
        [_VERBS[verb] for verb in verdicts.verb.tolist()],
        _numbers(verdicts.lease_s),
        verdicts.soft_priority.tolist(),
        _numbers(verdicts.expected_return_p50_s),
        _numbers(verdicts.expected_return_p90_s),
        _numbers(verdicts.confidence),
        (verdicts.fallback_used != 0).tolist(),
        [REASON_NAMES[reason] for reason in verdicts.reason.tolist()],
        _names(verdicts.rule_verb, num),
        _names(verdicts.policy_verb, num),
    )
    told = [VerdictRow(*row) for row in zip(*columns, strict=True)]
    if asked is not None:
        for row, hints in zip(told, hints_of(asked, rows, verdicts), strict=True):
            row.hints = hints
    return _encoder.encode(VerdictsBody(verdicts.policy_version, told))


def _impossible(facts: NDArray[np.float64], row: int, i: int) -> Problem:
    name = FACTS[i].name
    if i < MACHINE.stop:
        place = f"machine/{name}"
    elif MEMORY.start <= i < MEMORY.stop:
        place = f"memory/{name}"
    else:
        place = f"rows/{row}/{name}"
    return Problem("field", f"{place}: cannot be {facts[row, i]:g}", pointer=f"#/{place}")


def _numbers(column: NDArray[np.float32]) -> list[float | None]:
    """Numbers as text has them: what is no number or infinite is null, and 0.1 is 0.1."""
    told: list[Any] = np.round(column.astype(np.float64), 6).tolist()
    if not np.isfinite(column).all():
        return [value if abs(value) < float("inf") else None for value in told]
    return told


def _names(column: NDArray[np.int8], num: int) -> list[str | None]:
    return [_VERBS[verb] for verb in column.tolist()] if len(column) else [None] * num
