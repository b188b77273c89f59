"""Decisions as JSON: what is asked, as rows with the names of ``facts.FACTS``, and the verdicts."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from rlkv_engine import facts as F
from rlkv_engine.facts import CANDIDATE_FACTS, FACTS, MACHINE_FACTS, NUM_FACTS, OFFER_FACTS, Fact
from rlkv_service.columns import DecisionRows, VerdictRows, first_impossible
from rlkv_service.decision_api.problems import Problem
from rlkv_service.schema import MAX_NAME_LENGTH, MAX_ROWS, SCHEMA_VERSION, Point, Reason, Verb

Name = Annotated[str, Meta(max_length=MAX_NAME_LENGTH)]
Turn = Annotated[int, Meta(ge=0, lt=2**31, description="Counted from 0.")]
Version = Annotated[
    int, Meta(description="Of the schema.", extra_json_schema={"const": SCHEMA_VERSION})
]
VerbName = Literal["PRESERVE", "SWAP", "DISCARD"]
ReasonName = Literal["POLICY", "UNSURE", "OUTSIDE", "NO_POLICY", "SHADOW"]

#: What ``memory`` holds of the moment; the rest of it is the question's, and stands in its row.
_MEMORY = range(F.FREE_BLOCKS, F.NEED_BLOCKS)
_ROW = range(F.NEED_BLOCKS, NUM_FACTS)
assert FACTS[F.POINT].name == OFFER_FACTS[0].name and F.POINT == len(MACHINE_FACTS)
assert FACTS[-len(CANDIDATE_FACTS) :] == CANDIDATE_FACTS


def _field(fact: Fact) -> tuple[Any, ...]:
    """A fact as a field; whether it is possible is checked for all rows at once, later."""
    bound: dict[str, Any] = {"minimum": 0}
    if F.FACTS.index(fact) in first_impossible.above_0:
        bound = {"exclusiveMinimum": 0}
    meaning = f"{fact.meaning}, {fact.unit}" if fact.unit else fact.meaning
    if fact.default is None:
        kind = Annotated[float, Meta(description=f"{meaning}.", extra_json_schema=bound)]
        return fact.name, kind
    may_be_unknown = math.isnan(fact.default)
    said = "Not known if left out." if may_be_unknown else ""
    number = Annotated[float, Meta(extra_json_schema=bound)]
    meta = Meta(description=f"{meaning}. {said}".strip())
    if may_be_unknown:
        return fact.name, Annotated[number | None, meta], None
    return fact.name, Annotated[number, meta], fact.default
