"""Refusals as RFC 9457 words them: ``application/problem+json`` with the field and the number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
#: What ``type`` begins with; the rest is a name of ``KINDS``.
TYPE_PREFIX = "urn:rlkv:problem:"


class Kind(NamedTuple):
    """One way in which a request can fail."""

    status: int
    title: str


KINDS: Mapping[str, Kind] = {
    "unreadable": Kind(400, "The body cannot be read"),
    "unauthorized": Kind(401, "A token is missing or wrong"),
    "not-found": Kind(404, "There is nothing here"),
    "method": Kind(405, "Not with this method"),
    "too-large": Kind(413, "The body is too large"),
    "content-type": Kind(415, "The body is of another content type"),
    "field": Kind(422, "A field is missing or wrong"),
    "version": Kind(422, "The version cannot be read"),
    "rate": Kind(429, "Too many requests"),
    "listeners": Kind(429, "Too many listeners"),
    "internal": Kind(500, "An error of the server"),
    "unavailable": Kind(503, "The store of outcomes does not answer"),
    "not-ready": Kind(503, "Not ready"),
    "backend-broken": Kind(502, "The backend broke off"),
    "backend-unreachable": Kind(503, "The backend cannot be reached"),
    "backend-timeout": Kind(504, "The backend says nothing"),
}


class FieldError(msgspec.Struct):
    """One field that is wrong."""

    pointer: Annotated[
        str, msgspec.Meta(description="JSON pointer to it, or `?name` of the query.")
    ]
    detail: Annotated[str, msgspec.Meta(description="What it must be, and what it is.")]


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: Annotated[str, msgspec.Meta(description="One sentence, with the numbers.")]
    errors: Annotated[list[FieldError], msgspec.Meta(description="Fields that are wrong.")] = []


class Problem(HTTPException):
    """What a client is told.

    Args:
        kind: a name of ``KINDS``.
        detail: one sentence, with the numbers.
        pointer: to the field that is wrong.
        retry_after_s: when it may be tried again.
        headers: of the response.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        pointer: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if retry_after_s is not None:
            seconds = max(1, math.ceil(retry_after_s))
            headers = {**(headers or {}), "Retry-After": str(seconds)}
        # What a client has sent may stand in it, and need not be text.
        readable = detail.encode(errors="backslashreplace").decode()
        super().__init__(KINDS[kind].status, readable, headers)
        self.kind, self.pointer = kind, pointer

    def body(self) -> ProblemBody:
        """The response's JSON."""
        status, title = KINDS[self.kind]
        errors = [] if self.pointer is None else [FieldError(self.pointer, self.detail)]
        return ProblemBody(TYPE_PREFIX + self.kind, title, status, self.detail, errors)


#: What the framework says in two words.
_FRAMEWORKS = {
    404: ("not-found", "no such path: /openapi.json has those that there are"),
    405: ("method", "this path has other methods: /openapi.json says which"),
}


def problem_response(error: HTTPException) -> Response:
    """The response for an exception, also of the framework's own."""
    if not isinstance(error, Problem):
        kind, detail = _FRAMEWORKS.get(error.status_code, ("unreadable", error.detail))
        error = Problem(kind, detail, headers=error.headers)
    return Response(
        msgspec.json.encode(error.body()),
        error.status_code,
        headers=dict(error.headers or {}),
        media_type=MEDIA_TYPE,
    )


_AT = re.compile(r"^(.*) - at `(?:key in )?\$(.*)`$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def problem_of(error: Exception) -> Problem:
    """What msgspec says of a body: with the place, it is a field; without, there is no body."""
    if isinstance(error, msgspec.ValidationError):
        said = str(error)
        found = _AT.match(said)
        pointer = "#"
        if found is not None:
            said = found[1]
            steps = (name or index for name, index in _STEP.findall(found[2]))
            pointer += "".join(f"/{step}" for step in steps)
        missing = re.search(r"missing required field `(.+)`", said)
        if missing is not None:
            pointer += f"/{missing[1]}"
            said = "is missing"
        place = pointer.removeprefix("#/") or "the body"
        return Problem("field", f"{place}: {said[:1].lower()}{said[1:]}", pointer=pointer)
    return Problem("unreadable", f"the body is not of its content type: {_words(error)}")


def _words(error: Exception) -> Any:
    return "nested too deep" if isinstance(error, RecursionError) else error
