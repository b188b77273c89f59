"""Runs the application until somebody stops it."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

#: So long answers may go on once the server is told to stop, seconds.
_GRACE_S = 10


def run_app(app: FastAPI, listening: socket.socket) -> None:
    """Serves on a socket that listens; returns after SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S
    )
    uvicorn.Server(config).run(sockets=[listening])
