"""Runs an application until somebody stops it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

#: So long answers may go on once the server is told to stop, seconds.
_GRACE_S = 10
#: Of a connection between two requests through a proxy, seconds; agents wait for their tools.
_KEPT_S = 75


class WebServer(uvicorn.Server):
    """Serves an application; ``should_exit = True`` stops it, from any thread.

    Args:
        app: of ASGI.
        on_stop: called in its loop before it waits for what it is still answering.
        passes_through: responses are somebody else's: nothing of the server's own is added, and
            connections that clients keep stay open for longer.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_stop: Callable[[], None] | None = None,
        passes_through: bool = False,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=_GRACE_S,
                timeout_keep_alive=_KEPT_S if passes_through else 5,
                server_header=not passes_through,
                date_header=not passes_through,
                proxy_headers=not passes_through,
                ws="none" if passes_through else "auto",
            )
        )
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends what would never end by itself, then the rest."""
        if self._on_stop is not None:
            self._on_stop()
        await super().shutdown(sockets)


def run_app(
    app: ASGIApp,
    listening: socket.socket,
    on_stop: Callable[[], None] | None = None,
    passes_through: bool = False,
) -> None:
    """Serves on a socket that listens; returns after SIGINT or SIGTERM."""
    WebServer(app, on_stop, passes_through).run(sockets=[listening])
