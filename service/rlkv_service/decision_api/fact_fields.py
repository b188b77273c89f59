"""The facts of a decision as fields of JSON: three groups, as they are known to an engine."""

from __future__ import annotations

import math
from typing import Annotated, Any

from msgspec import Meta

from rlkv_engine import facts as F
from rlkv_engine.facts import FACTS, MACHINE_FACTS, NUM_FACTS
from rlkv_service.columns import ABOVE_0

#: Places in a row of facts. The point stands between the machine and the memory, and is a word.
MACHINE = slice(0, len(MACHINE_FACTS))
MEMORY = slice(F.FREE_BLOCKS, F.NEED_BLOCKS)
#: What the requester needs, and the paused session in question.
QUESTION = slice(F.NEED_BLOCKS, NUM_FACTS)


def fields_of(places: slice) -> list[tuple[Any, ...]]:
    """Fields for ``msgspec.defstruct``, keyword-only, in the order of ``FACTS``."""
    return [_field(i) for i in range(NUM_FACTS)[places]]


def _field(i: int) -> tuple[Any, ...]:
    # Whether a number is possible is checked for all rows at once, with the number in the error.
    fact = FACTS[i]
    said = f"{fact.meaning}, {fact.unit}" if fact.unit else fact.meaning
    bound: dict[str, Any] = {"exclusiveMinimum" if i in ABOVE_0 else "minimum": 0}
    number = Annotated[float, Meta(extra_json_schema=bound)]
    if fact.default is None:
        return fact.name, Annotated[number, Meta(description=said)]
    if math.isnan(fact.default):
        return fact.name, Annotated[number | None, Meta(description=f"{said}; null: unknown")], None
    return fact.name, Annotated[number, Meta(description=said)], fact.default
