"""Runs an application until somebody stops it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

#: So long answers may go on once the server is told to stop, seconds.
_GRACE_S = 10


class WebServer(uvicorn.Server):
    """Serves an application; ``should_exit = True`` stops it, from any thread.

    Args:
        app: of ASGI.
        on_stop: called in its loop before it waits for what it is still answering.
    """

    def __init__(self, app: ASGIApp, on_stop: Callable[[], None] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S
            )
        )
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends what would never end by itself, then the rest."""
        if self._on_stop is not None:
            self._on_stop()
        await super().shutdown(sockets)


def run_app(
    app: ASGIApp, listening: socket.socket, on_stop: Callable[[], None] | None = None
) -> None:
    """Serves on a socket that listens; returns after SIGINT or SIGTERM."""
    WebServer(app, on_stop).run(sockets=[listening])
