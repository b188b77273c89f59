"""Refusals as OpenAI's protocol words them: ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(HTTPException):
    """What a client is told.

    Args:
        status: of the HTTP response.
        message: one sentence, with the numbers.
        param: the field that is wrong.
        code: a word that a program may test.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        # What a client has sent may stand in it, and need not be text.
        self.message = message.encode(errors="backslashreplace").decode()
        super().__init__(status, self.message)
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """The response's JSON."""
        default = "server_error" if self.status_code >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status_code, default),
                "param": self.param,
                "code": self.code,
            }
        }


def crashed() -> ApiError:
    """The engine's thread has ended on an error, for this request and all that follow."""
    return ApiError(500, "the engine has crashed: see the server's log", code="engine_crashed")
