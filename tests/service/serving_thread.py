"""A web server that serves on a thread while a test runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn


@contextmanager
def serving(server: uvicorn.Server, listening: socket.socket, patience_s: float) -> Iterator[str]:
    """Its address; it has that long to end, seconds."""
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(patience_s)
        assert not thread.is_alive(), "the server does not stop"
