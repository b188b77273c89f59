"""What a request says about its session: vLLM's ``session_id``, or ``kv_transfer_params``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rlkv_engine.errors import InputError
from rlkv_service.schema import MAX_NAME_LENGTH, Verb

#: Where the plug-in's own field stands in ``kv_transfer_params``.
KEY = "rlkv"
_VERBS = {verb.name.lower(): verb for verb in Verb}


@dataclass(frozen=True, slots=True)
class Hint:
    """All of it may be unknown.

    ``verb`` and ``lease_s``: somebody has decided already. ``ends``: the session will not be back.
    """

    session: str = ""
    turn: int | None = None
    tool: str = ""
    verb: Verb | None = None
    lease_s: float | None = None
    ends: bool = False


NOTHING = Hint()


def read_hint(params: Any) -> Hint:
    """The plug-in's part of a request's ``kv_transfer_params``.

    Raises:
        InputError: it cannot be meant so; the text names the field.
    """
    said = params.get(KEY) if isinstance(params, dict) else None
    if said is None:
        return NOTHING
    if not isinstance(said, dict):
        raise InputError(f"{KEY} is {type(said).__name__}, not an object")
    unknown = said.keys() - Hint.__dataclass_fields__.keys()
    if unknown:
        raise InputError(f"{KEY} has no {sorted(map(str, unknown))[0]}")
    turn, verb, lease_s, ends = (said.get(key) for key in ("turn", "verb", "lease_s", "ends"))
    if turn is not None and not (type(turn) is int and 0 <= turn < 2**31):
        raise InputError(f"{KEY}.turn is {turn!r}, not a number from 0")
    if verb is not None and not (isinstance(verb, str) and verb in _VERBS):
        raise InputError(f"{KEY}.verb is {verb!r}, none of {', '.join(_VERBS)}")
    if lease_s is not None and not (_is_number(lease_s) and lease_s >= 0.0):
        raise InputError(f"{KEY}.lease_s is {lease_s!r}, not seconds")
    if ends is not None and type(ends) is not bool:
        raise InputError(f"{KEY}.ends is {ends!r}, neither true nor false")
    return Hint(
        _name(said, "session"),
        turn,
        _name(said, "tool"),
        None if verb is None else _VERBS[verb],
        None if lease_s is None else float(lease_s),
        bool(ends),
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


def _name(said: dict[str, Any], key: str) -> str:
    name = said.get(key, "")
    if not is_name(name):
        raise InputError(f"{KEY}.{key} is not text of at most {MAX_NAME_LENGTH} characters")
    return str(name)


def is_name(name: Any) -> bool:
    """Whether messages can carry a name."""
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
