"""Verdicts in the words of another engine: what of them is asked for, and how they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rlkv_service.adapters.hints import BACKENDS, Call, Pause, Served, verdict_at
from rlkv_service.columns import DecisionRows, VerdictRows
from rlkv_service.decision_api.json_bodies import Tokens
from rlkv_service.decision_api.problems import Problem
from rlkv_service.schema import Name

BackendName = Annotated[  # type: ignore[valid-type]
    Literal[tuple(sorted(BACKENDS))],
    Meta(description="Whose words; docs/hints.md has the table."),
]


class HintContext(msgspec.Struct):
    """What some engines need to know of a session beside its facts."""

    parent_session: Annotated[Name, Meta(description="Of a sub-agent.")] = ""
    shared_tokens: Annotated[
        Tokens | None,
        Meta(description="At the start of the context, that other sessions have too."),
    ] = None
    token_ids: Annotated[list[Tokens], Meta(description="Of the context, for LMCache's calls.")] = (
        msgspec.field(default_factory=list)
    )
    ends: Annotated[bool, Meta(description="The session does not come back.")] = False


class HintsAsked(msgspec.Struct):
    """In whose words each verdict is told as well, and what has to be known of that server."""

    backend: BackendName  # type: ignore[valid-type]
    model: Annotated[str, Meta(description="As the server calls it.")] = ""
    world_size: Annotated[int, Meta(ge=1, lt=2**31, description="Of LMCache: ranks.")] = 1
    instance_id: Annotated[str, Meta(description="Of LMCache: the node.")] = ""
    cache_salt: str = ""
    pins: Annotated[bool, Meta(description="Whether LMCache's pins are used.")] = False
    rows: Annotated[list[HintContext], Meta(description="One for each row, or none at all.")] = (
        msgspec.field(default_factory=list)
    )


class CallTold(msgspec.Struct):
    """A request over HTTP to make when the pause has begun."""

    method: str
    path: str
    server: Annotated[
        Literal["engine", "lmcache"], Meta(description="The engine, or LMCache's coordinator.")
    ]
    body: dict[str, Any] | None
    headers: dict[str, str]
    after_s: Annotated[float, Meta(ge=0.0, description="Since the pause began.")]
    on_return: Annotated[
        Literal["keep", "skip", "now"],
        Meta(description="What becomes of it if the session is back before its time."),
    ]


class HintsTold(msgspec.Struct):
    """One verdict in the words of an engine."""

    fields: Annotated[
        dict[str, Any],
        Meta(description="To merge into the body of the request; the client's own stay."),
    ]
    ruled_out_by: Annotated[
        dict[str, list[str]],
        Meta(description="Not to be added where the client sent one of these fields, by ours."),
    ]
    ruled_out_within: Annotated[
        dict[str, list[str]],
        Meta(description="The same where one of these has a field of that name inside, by ours."),
    ]
    headers: Annotated[dict[str, str], Meta(description="To add to the request.")]
    in_process: Annotated[
        dict[str, Any], Meta(description="Arguments of the engine's own call in Python.")
    ]
    calls: list[CallTold]
    lost: Annotated[list[str], Meta(description="What of the verdict the engine has no words for.")]


def check_hints(asked: HintsAsked | None, num: int) -> None:
    """Raises ``Problem`` unless there is a context for each of ``num`` rows, or none."""
    if asked is not None and len(asked.rows) not in (0, num):
        told = f"hints/rows: {len(asked.rows)} for {num} rows"
        raise Problem("field", told, pointer="#/hints/rows")


def hints_of(asked: HintsAsked, rows: DecisionRows, verdicts: VerdictRows) -> list[HintsTold]:
    """Each verdict in the words that are asked for."""
    served = Served(
        model=asked.model,
        world_size=asked.world_size,
        instance_id=asked.instance_id,
        cache_salt=asked.cache_salt,
        pins=asked.pins,
    )
    nothing = HintContext()
    told = []
    for i, session in enumerate(rows.sessions):
        context = asked.rows[i] if asked.rows else nothing
        pause = Pause(
            session=session,
            verdict=verdict_at(verdicts, i),
            turn=int(rows.turns[i]),
            tool=rows.tools[i],
            parent_session=context.parent_session,
            shared_tokens=context.shared_tokens,
            token_ids=context.token_ids,
            ends=context.ends,
        )
        hints = BACKENDS[asked.backend](pause, served)
        told.append(
            HintsTold(
                dict(hints.fields),
                _lists(hints.ruled_out_by),
                _lists(hints.ruled_out_within),
                dict(hints.headers),
                dict(hints.in_process),
                [_call(call) for call in hints.calls],
                list(hints.lost),
            )
        )
    return told


def _lists(names: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {name: list(others) for name, others in names.items()}


def _call(call: Call) -> CallTold:
    body = None if call.body is None else dict(call.body)
    return CallTold(
        call.method, call.path, call.server, body, dict(call.headers), call.after_s,
        call.on_return.value,
    )  # fmt: skip
