"""What a mapping returns: fields, headers and calls, for whoever stands before the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from rlkv_service.adapters.hints.pause import Pause, Served


class OnReturn(Enum):
    """What becomes of a call whose time has not come when the session returns."""

    KEEP = "keep"  #: it waits for its time
    SKIP = "skip"  #: it is of no use any more
    NOW = "now"  #: it is made at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request over HTTP that does what no field of the client's own request can."""

    method: str
    path: str  #: below the address of ``server``
    body: Mapping[str, Any] | None = None  #: sent as JSON
    headers: Mapping[str, str] = field(default_factory=dict)  #: beside those of any JSON body
    server: Literal["engine", "lmcache"] = "engine"  #: or the coordinator of LMCache
    after_s: float = 0.0  #: since the engine's response is through
    on_return: OnReturn = OnReturn.SKIP


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """One verdict in the words of one engine. What says nothing is empty."""

    #: Of the JSON body of the request whose end begins the pause; ``with_fields`` merges them.
    fields: Mapping[str, Any] = field(default_factory=dict)
    #: Fields of ours that a client's own field rules out, by ours: the engine refuses the two.
    ruled_out_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: The same where it is a field of our name anywhere inside one of these.
    ruled_out_within: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Of the same request; a header that the client sent is left as it is.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Of the engine's own call in Python, for programs that run the engine themselves.
    in_process: Mapping[str, Any] = field(default_factory=dict)
    #: To make once the response is through, in this order.
    calls: tuple[Call, ...] = ()
    #: What of the verdict the engine has no words for, one sentence each.
    lost: tuple[str, ...] = ()

    @property
    def client_fields(self) -> set[str]:
        """Names of the client's fields that ``with_fields`` must see; it ignores the others."""
        ruling = (*self.ruled_out_by.values(), *self.ruled_out_within.values())
        return {*self.fields, *(name for names in ruling for name in names)}


Mapper = Callable[[Pause, Served], Hints]


def with_fields(body: Mapping[str, Any], hints: Hints) -> dict[str, Any]:
    """A request's body with the fields of hints; what the client said stays.

    Args:
        body: of the client, decoded; it is not changed.
        hints: a mapping's.

    Returns:
        A new body. Objects are merged at every depth; of anything else the client's is kept.
    """
    allowed = {
        name: value
        for name, value in hints.fields.items()
        if not any(body.get(other) is not None for other in hints.ruled_out_by.get(name, ()))
        and not any(_has(body.get(other), name) for other in hints.ruled_out_within.get(name, ()))
    }
    return _merged(body, allowed)


def _has(value: object, name: str) -> bool:
    if isinstance(value, Mapping):
        return value.get(name) is not None or any(_has(each, name) for each in value.values())
    return isinstance(value, list) and any(_has(each, name) for each in value)


def _merged(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(theirs)
    for name, value in ours.items():
        if merged.get(name) is None:
            merged[name] = value
        elif isinstance(value, Mapping) and isinstance(merged[name], Mapping):
            merged[name] = _merged(merged[name], value)
    return merged
