"""What all bodies of JSON share: names, turns, the version, and how they are read."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from rlkv_service.decision_api.problems import Problem, problem_of
from rlkv_service.schema import SCHEMA_VERSION, SchemaError, check_version

Turn = Annotated[int, Meta(ge=0, lt=2**31, description="Counted from 0.")]
Version = Annotated[
    int, Meta(description="Of the schema.", extra_json_schema={"const": SCHEMA_VERSION})
]
Tokens = Annotated[int, Meta(ge=0, lt=2**31)]

B = TypeVar("B", bound=msgspec.Struct)


class _Versioned(msgspec.Struct):
    v: int = SCHEMA_VERSION


def decode_json(decoder: msgspec.json.Decoder[B], body: bytes) -> B:
    """A body that is read.

    Raises:
        Problem: it cannot be; of another version that is what is said, whatever else differs.
    """
    try:
        asked = decoder.decode(body)
    except msgspec.ValidationError as error:
        _check_version(body)
        raise problem_of(error) from error
    # UnicodeDecodeError is a ValueError and none of msgspec's.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise problem_of(error) from error
    check_body_version(asked)
    return asked


def check_body_version(asked: Any) -> None:
    """Raises ``Problem`` unless a body is of a version that can be read."""
    try:
        check_version(asked.v)
    except SchemaError as error:
        raise Problem("version", str(error), pointer="#/v") from error


def _check_version(body: bytes) -> None:
    try:
        asked = msgspec.json.decode(body, type=_Versioned)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return  # what is wrong is something else
    check_body_version(asked)
