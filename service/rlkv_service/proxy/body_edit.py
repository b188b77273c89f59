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
    theirs = {
        name: msgspec.json.decode(members[name])
        for name in hints.client_fields
        if name in members and _matters(name, members[name], hints)
    }
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


def _matters(name: str, raw: msgspec.Raw, hints: Hints) -> bool:
    """Whether a client's field has to be read: a long one only for what may be in it."""
    within = [ours for ours, names in hints.ruled_out_within.items() if name in names]
    if not within or name in hints.fields:
        return True
    return any(f'"{ours}"'.encode() in bytes(raw) for ours in within)
