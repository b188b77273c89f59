"""What every request passes before it is read: the key, and the size of its body."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class BodyLimit:
    """Refuses bodies of more than so many bytes, by what they say and by what they are."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 413 to more."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "")
        if said.isdecimal() and int(said) > self._max_bytes:
            body = self._error(f"{said} bytes").body()
            await json_response(body, 413, {"Connection": "close"})(scope, receive, send)
            return
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise self._error("longer")
            return message

        await self._app(scope, limited, send)

    def _error(self, what: str) -> ApiError:
        reason = f"the body is {what}, at most {self._max_bytes} bytes are read"
        return ApiError(413, reason, code="body_too_large")
