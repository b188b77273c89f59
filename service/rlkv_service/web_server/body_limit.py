"""How much of a request is read, whatever it says of itself."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: What is too long is read and forgotten up to here before it is refused: to close a connection
#: on what a client is still sending resets it, and the client never reads why.
_DRAINED_BYTES = 64 * 2**20


class BodyLimit:
    """Refuses bodies of more than so many bytes, by what they say and by what they are.

    Args:
        app: what is behind it; it turns the exception into a response where a body is longer than
            it says.
        max_bytes: that are read.
        refusal: the exception with status 413 in the protocol's words, of a sentence.
        response: what a client is sent of it.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        refusal: Callable[[str], HTTPException],
        response: Callable[[HTTPException], Response],
    ) -> None:
        self._app, self._max_bytes = app, max_bytes
        self._refusal, self._response = refusal, response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 413 to more."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        said = headers.get("content-length", "")
        if said.isdecimal() and int(said) > self._max_bytes:
            if headers.get("expect", "").lower() != "100-continue":
                await _drain(receive)
            response = self._response(self._error(f"{said} bytes"))
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                if message.get("more_body", False):
                    await _drain(receive)
                raise self._error("longer")
            return message

        await self._app(scope, limited, send)

    def _error(self, what: str) -> HTTPException:
        return self._refusal(f"the body is {what}, at most {self._max_bytes} bytes are read")


async def _drain(receive: Receive) -> None:
    num_bytes, more = 0, True
    while more and num_bytes < _DRAINED_BYTES:
        message = await receive()
        num_bytes += len(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
