"""What a client is told where the backend says nothing: RFC 9457, and in OpenAI's words, too."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rlkv_service.decision_api.problems import MEDIA_TYPE, Problem, problem_response
from rlkv_service.proxy.upstream_connection import UpstreamError

#: By the kind of failure: the kind of problem. Only one that has not been reached is tried again.
_KINDS = {
    "unreachable": "backend-unreachable",
    "lost": "backend-broken",
    "invalid": "backend-broken",
    "timeout": "backend-timeout",
}
_RETRY_AFTER_S = 1.0


def backend_problem(error: UpstreamError) -> Problem:
    """What a client is told of a failure."""
    kind = _KINDS[error.kind]
    retry_after_s = _RETRY_AFTER_S if kind == "backend-unreachable" else None
    return Problem(kind, str(error), retry_after_s=retry_after_s)


def openai_problem_response(error: HTTPException) -> Response:
    """A problem with OpenAI's ``error`` beside it, which their clients show."""
    response = problem_response(error)
    body: dict[str, Any] = msgspec.json.decode(bytes(response.body))
    body["error"] = {
        "message": body["detail"],
        "type": "server_error" if error.status_code >= 500 else "invalid_request_error",
        "param": None,
        "code": body["type"].rpartition(":")[2],
    }
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Response(msgspec.json.encode(body), error.status_code, headers, media_type=MEDIA_TYPE)


async def send_problem(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with it."""
    await openai_problem_response(problem)(scope, receive, send)
