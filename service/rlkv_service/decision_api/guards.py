"""What every request passes before it is read: its token, and how often that one has asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rlkv_service.decision_api.problems import Problem, problem_response
from rlkv_service.decision_api.rate_limit import RateLimit
from rlkv_service.decision_api.tokens import Token, TokenFile

#: Whoever watches over a server has no token; the page and the document say nothing of it.
OPEN_PATHS = ("/", "/healthz", "/readyz", "/openapi.json")


class TokenGuard:
    """Asks for ``Authorization: Bearer TOKEN`` everywhere but at ``open_paths``.

    Args:
        app: what is behind it.
        tokens: that may ask.
        requests_per_s: of a token whose line says nothing else.
        open_paths: that nobody needs a token for.
        now_s: a clock that never goes back, seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: TokenFile,
        requests_per_s: float,
        open_paths: Collection[str] = OPEN_PATHS,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._tokens, self._requests_per_s = app, tokens, requests_per_s
        self._limit, self._open_paths = RateLimit(now_s), open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 without a token, 429 to more than it may."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            try:
                self._check(scope)
            except Problem as problem:
                await problem_response(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        scheme, _, presented = Headers(scope=scope).get("authorization", "").partition(" ")
        token: Token | None = None
        if scheme.lower() == "bearer":
            token = self._tokens.find(presented.strip())
        if token is None:
            raise Problem(
                "unauthorized",
                "show a token: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )
        allowed = token.requests_per_s or self._requests_per_s
        wait_s = self._limit.wait_s(token.name, allowed)
        if wait_s > 0.0:
            raise Problem(
                "rate",
                f"{token.name} may ask {allowed:g} times a second",
                retry_after_s=wait_s,
            )
