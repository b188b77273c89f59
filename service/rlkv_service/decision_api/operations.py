"""What each path takes and answers, as OpenAPI says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse

from rlkv_service.decision_api import examples
from rlkv_service.decision_api.decision_bodies import DecisionsBody, VerdictsBody
from rlkv_service.decision_api.outcome_bodies import (
    EndedBody,
    OutcomesBody,
    PolicyBody,
    RecordedBody,
)
from rlkv_service.decision_api.problems import KINDS, MEDIA_TYPE, ProblemBody
from rlkv_service.schema import MAX_NAME_LENGTH

DESCRIPTION = (
    "What becomes of the KV cache of a session that waits for a tool: PRESERVE, SWAP or DISCARD."
)
SCHEMA_REF = "#/components/schemas/{name}"
#: Their schemas are part of the document.
BODIES = (
    DecisionsBody, VerdictsBody, OutcomesBody, RecordedBody, EndedBody, PolicyBody, ProblemBody,
)  # fmt: skip

_GUARDED = ("unauthorized", "rate")
_WITH_BODY = (*_GUARDED, "unreadable", "too-large", "content-type", "field", "version")
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
}


def _ref(body: type[msgspec.Struct]) -> dict[str, Any]:
    return {"schema": {"$ref": SCHEMA_REF.format(name=body.__name__)}}


def _responses(
    description: str, content: Mapping[str, Any], *problems: str
) -> dict[int | str, dict[str, Any]]:
    told: dict[int | str, dict[str, Any]] = {
        200: {"description": description, "content": dict(content)}
    }
    for name in problems:
        status, title = KINDS[name]
        if status in told:
            told[status]["description"] += f"; or: {title[:1].lower()}{title[1:]}"
            continue
        told[status] = {"description": title, "content": {MEDIA_TYPE: _ref(ProblemBody)}}
        if status in (429, 503):
            told[status]["headers"] = _RETRY_AFTER
    return told


def _body(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": dict(content)}}


def _examples(**values: Any) -> dict[str, Any]:
    return {"examples": {name: {"value": value} for name, value in values.items()}}


def _number(name: str, meaning: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": meaning,
        "schema": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 0},
    }


_NAME = {"type": "string", "maxLength": MAX_NAME_LENGTH}
_COLUMNS = {"schema": {"type": "string", "format": "binary", "description": "Of docs/schema.md."}}
_STATUS = {
    "schema": {
        "type": "object",
        "properties": {"status": {"const": "ok"}},
        "required": ["status"],
    }
}

DECIDE: dict[str, Any] = {
    "summary": "Verdicts for one or many rows",
    "description": "A body of MessagePack is a DecisionRequest in columns, and is answered with"
    " Verdicts: of many rows it is the fast way. `hints` asks for each verdict in the words of a"
    " serving engine as well: fields, headers and calls for whoever stands before it.",
    "responses": _responses(
        "The verdicts, in the order of the rows",
        {"application/json": _ref(VerdictsBody), "application/msgpack": _COLUMNS},
        *_WITH_BODY,
    ),
    "openapi_extra": _body(
        {
            "application/json": _ref(DecisionsBody)
            | _examples(call=examples.CALL, hinted=examples.HINTED, offer=examples.OFFER),
            "application/msgpack": _COLUMNS,
        }
    ),
}
RECORD: dict[str, Any] = {
    "summary": "What came of pauses",
    "description": "Answered once the log has all of them; sent again they count once.",
    "responses": _responses(
        "All of them are in the log",
        {"application/json": _ref(RecordedBody)},
        *_WITH_BODY,
        "unavailable",
    ),
    "openapi_extra": _body(
        {
            "application/json": _ref(OutcomesBody)
            | _examples(outcome=examples.OUTCOME, short=examples.SHORT_OUTCOME)
        }
    ),
}
END: dict[str, Any] = {
    "summary": "A session is over",
    "description": "What is kept of it is worth nothing any more. Answered once the log has it.",
    "responses": _responses(
        "It has ended",
        {"application/json": _ref(EndedBody)},
        *_GUARDED,
        "field",
        "unavailable",
    ),
    "openapi_extra": {
        "parameters": [
            {"name": "session_id", "in": "path", "required": True, "schema": _NAME,
             "example": "chat-17"},
            {"name": "engine_id", "in": "query", "required": True, "schema": _NAME,
             "example": "engine-0"},
            _number("turn", "Its last one."),
            _number("input_tokens", "Of that turn's prompt."),
            _number("output_tokens", "Generated in it."),
        ]
    },
}  # fmt: skip
POLICY: dict[str, Any] = {
    "summary": "The bundle that decides",
    "responses": _responses("The bundle", {"application/json": _ref(PolicyBody)}, *_GUARDED),
}
HEALTH: dict[str, Any] = {
    "summary": "Whether the server lives",
    "responses": _responses("It does", {"application/json": _STATUS}),
}
READY: dict[str, Any] = {
    "summary": "Whether it should be asked",
    "responses": _responses(
        "A bundle is loaded, and Redis answers", {"application/json": _STATUS}, "not-ready"
    ),
}
METRICS: dict[str, Any] = {
    "summary": "Counters for Prometheus",
    "response_class": PlainTextResponse,
    "responses": _responses(
        "Prometheus' text format", {"text/plain": {"schema": {"type": "string"}}}, *_GUARDED
    ),
}
PAGE: dict[str, Any] = {
    "summary": "The live page",
    "response_class": HTMLResponse,
    "responses": _responses("A page", {"text/html": {"schema": {"type": "string"}}}),
}
EVENTS: dict[str, Any] = {
    "summary": "What the live page shows, once a second",
    "description": "Server-sent events, each a JSON object, for as long as somebody listens.",
    "response_class": StreamingResponse,
    "responses": _responses(
        "Events", {"text/event-stream": {"schema": {"type": "string"}}}, *_GUARDED, "listeners"
    ),
}
for _operation in (DECIDE, RECORD, END, POLICY, HEALTH, READY):
    _operation.setdefault("response_class", Response)
