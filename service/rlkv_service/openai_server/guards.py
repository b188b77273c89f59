"""What every request passes before it is read: the key."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rlkv_service.openai_server.errors import ApiError
from rlkv_service.openai_server.responses import json_response

#: Whoever watches over a server has no key.
_OPEN_PATHS = ("/health",)


class KeyGuard:
    """Asks for ``Authorization: Bearer KEY`` everywhere but at ``/health``."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app, self._key = app, api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 without the key."""
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            right = hmac.compare_digest(key.strip().encode("latin-1"), self._key)
            if scheme.lower() != "bearer" or not right:
                error = ApiError(401, "the API key is wrong or missing", code="invalid_api_key")
                headers = {"WWW-Authenticate": "Bearer"}
                await json_response(error.body(), 401, headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)
