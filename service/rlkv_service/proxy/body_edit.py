"""Fields that are added to a JSON body; every byte that the client sent stays where it can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rlkv_service.adapters.hints import Hints, with_fields


def with_hints(body: bytes, members: Mapping[str, msgspec.Raw], hints: Hints) -> bytes:
    """The body with the fields of hints; what the client said stays.

    New fields stand at its end. Only where the client has sent an object that a hint adds to, such
    as ``kv_transfer_params``, is the body put together anew, of the client's own values.

    Args:
        body: a JSON object.
        members: the same, as raw values.
        hints: of a mapping.
    """
    # What the mapping merges into: the client's values for the names that it speaks of.
    spoken = {*hints.fields, *(other for names in hints.ruled_out_by.values() for other in names)}
    theirs = {name: msgspec.json.decode(members[name]) for name in spoken if name in members}
    merged = with_fields(theirs, hints)
    added = {name: value for name, value in merged.items() if name not in members}
    changed = {
        name: value for name, value in merged.items() if name in members and value != theirs[name]
    }
    if changed:
        values: dict[str, Any] = {**members, **changed, **added}
        return msgspec.json.encode(values)
    if not added:
        return body
    whole = body.rstrip()
    comma = b"," if members else b""
    return whole[:-1] + comma + msgspec.json.encode(added)[1:-1] + b"}"
